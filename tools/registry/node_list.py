"""Write `node_list.json`, by which ComfyUI-Manager finds the pack of a missing node.

Run `python tools/registry/node_list.py` after a node has come or got another title.

Its scanner wants {node id: what it is}, and uses the ids. They are read from the sources, where they are literals.
"""

import ast
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "node_list.json"


def node_list():
    """{node id: title}, by id."""
    found = {}
    for path in (ROOT / "nodes").glob("*.py"):
        for part in ast.walk(ast.parse(path.read_text("utf-8"))):
            given = {keyword.arg: keyword.value for keyword in getattr(part, "keywords", ())}
            if "node_id" in given:
                found[ast.literal_eval(given["node_id"])] = ast.literal_eval(given["display_name"])
    return dict(sorted(found.items()))


def main():
    FILE.write_text(json.dumps(node_list(), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()

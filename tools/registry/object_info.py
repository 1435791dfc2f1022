"""Write what ComfyUI tells of its nodes for comfy-lint: `python tools/registry/object_info.py FILE`.

The server has this pack and tiny models. Runs with a Python that has ComfyUI's requirements and pytest, see
`.ci/registry`.
"""

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from workflows.installed import serve  # noqa: E402


def add_inputs_of_choices(info):
    """List the inputs that the choices of a dynamic combo bring beside the others: comfy-lint 0.1.0 knows no such
    choices. An input that several bring may have the values of all.
    """
    optional = info["input"].setdefault("optional", {})
    for name, (kind, *options) in [pair for section in info["input"].values() for pair in section.items()]:
        if kind == "COMFY_DYNAMICCOMBO_V3":
            for choice in options[0]["options"]:
                for inputs in choice["inputs"].values():
                    for inner, described in inputs.items():
                        known = optional.setdefault(f"{name}.{inner}", described)
                        if described[0] == "COMBO" and known is not described:
                            known[1]["options"] = [*known[1]["options"], *described[1]["options"]]


def main():
    with tempfile.TemporaryDirectory() as base, serve(Path(base)) as server:
        infos = server.get("/object_info")
    for name, info in infos.items():
        if name.startswith("SanaNative"):
            add_inputs_of_choices(info)
    Path(sys.argv[1]).write_text(json.dumps(infos), "utf-8")


if __name__ == "__main__":
    main()

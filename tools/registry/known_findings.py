"""Fail if `comfy-test lint` objects to more than is known: `python tools/registry/known_findings.py syntax.json`.

It wants ComfyUI's layers in the place of PyTorch's. `sana_core` runs without ComfyUI and gets such layers from its Kit;
the exceptions below are meant.
"""

import json
import re
import sys
from pathlib import Path

KNOWN = {
    "sana_core/kernels/linear_attention.py": "switches autocast off for sums in float32",
    "sana_core/pictures/tiny_decoder.py": "draws previews, in float32 on every device",
    "sana_core/quantised/layers.py": "a plain layer made of a quantised one, for the library alone",
}


def main():
    details = json.loads(Path(sys.argv[1]).read_text("utf-8"))["results"]["syntax"].get("details") or ""
    found = set(re.findall(r"^(\S+\.py):$", details, re.MULTILINE))
    if found - KNOWN.keys():
        sys.exit(f"comfy-test lint:\n{details}")
    if KNOWN.keys() - found:
        sys.exit(f"no longer found, take it out of the known: {sorted(KNOWN.keys() - found)}")
    sys.stdout.write(f"as known: {', '.join(sorted(found))}\n")


if __name__ == "__main__":
    main()

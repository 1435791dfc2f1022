"""How much memory quantising takes, beside the file that is read.

    python bench/quantize_memory.py [--model 4.8B] [--depth 60] [--formats int8 nvfp4 w4a8] [--folder /tmp]
    python bench/quantize_memory.py --model gemma [--formats fp8 int8]

A bfloat16 file of the 4.8B model, or of Gemma-2-2B, with all weights zero is made, sparse on disk (9.4 and 5.2 GB in
name). Each format is made of it by the command line. Printed: the largest private memory of that process (RssAnon of
/proc, so Linux only) and the seconds it took. The file that is read is mapped and does not count. Exits with 1 if one
takes more than LIMIT.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sana_core.config import TextConfig  # noqa: E402
from sana_core.kit import Kit  # noqa: E402
from sana_core.presets import NETWORKS  # noqa: E402
from sana_core.text.gemma import build_gemma2  # noqa: E402
from sana_core.transformer.model import SanaTransformer  # noqa: E402

LIMIT = 1.5  # GB
FORMATS = {"4.8B": ("int8", "nvfp4", "w4a8"), "gemma": ("fp8", "int8")}


def shapes(model: str, depth: int | None) -> dict[str, Tensor]:
    """The tensors of a model, on the meta device. depth: blocks of the 4.8B model; None: all."""
    if model == "gemma":
        return build_gemma2(TextConfig()).state_dict()
    config = NETWORKS["SANA-1.5 4.8B"]
    return SanaTransformer(replace(config, depth=depth or config.depth), Kit(device="meta")).state_dict()


def write_zeros(path: Path, tensors: Mapping[str, Tensor]) -> int:
    """A file of these tensors. Returns its bytes."""
    header, end = {}, 0
    for key, tensor in tensors.items():
        start, end = end, end + 2 * tensor.numel()
        header[key] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def peak_of(command: list[str]) -> tuple[float, float]:
    """The largest RssAnon of a process in GB, and its seconds."""
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command, cwd=ROOT)
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))])
        time.sleep(0.005)
    if process.wait():
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return peak * 1024 / 1e9, time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory of quantising")
    parser.add_argument("--model", choices=("4.8B", "gemma"), default="4.8B")
    parser.add_argument("--depth", type=int, help="blocks of the 4.8B model (default: all)")
    parser.add_argument("--formats", nargs="+", help="default: int8 nvfp4 w4a8; for gemma fp8 int8")
    parser.add_argument("--folder", type=Path, default=None, help="for the files, which are deleted afterwards")
    args = parser.parse_args()
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, target = Path(folder) / "zeros.safetensors", Path(folder) / "quantised.safetensors"
        size = write_zeros(source, shapes(args.model, args.depth))
        for form in args.formats or FORMATS[args.model]:
            command = [sys.executable, "-m", "sana_core", "quantize", str(source), str(target), "--format", form]
            peak, seconds = peak_of([*command, "--quiet", "--overwrite"])
            made, worst = target.stat().st_size / 1e9, max(worst, peak)
            print(f"{form}: {size / 1e9:.2f} -> {made:.2f} GB, peak {peak:.2f} GB (at most {LIMIT}), {seconds:.0f} s")  # noqa: T201
    return int(worst > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())

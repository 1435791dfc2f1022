"""How much memory quantising takes, beside the file that is read.

    python bench/quantize_memory.py [--depth 60] [--formats int8 nvfp4 w4a8] [--folder /tmp]

A bfloat16 file of the 4.8B model with all weights zero is made, sparse on disk (9.4 GB in name, depth 60). Each format
is made of it by the command line. Printed: the largest private memory of that process (RssAnon of /proc, so Linux
only) and the seconds it took. The file that is read is mapped and does not count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sana_core.kit import Kit  # noqa: E402
from sana_core.presets import RELEASES  # noqa: E402
from sana_core.transformer.model import SanaTransformer  # noqa: E402

LIMIT = 1.5  # GB


def write_zeros(path: Path, depth: int) -> int:
    """A file of the largest release with so many blocks. Returns its bytes."""
    largest = max((release.config for release in RELEASES), key=lambda config: config.depth)
    tensors = SanaTransformer(replace(largest, depth=depth), Kit(device="meta")).state_dict()
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory of quantising")
    parser.add_argument("--depth", type=int, default=60, help="blocks of the model")
    parser.add_argument("--formats", nargs="+", default=["int8", "nvfp4", "w4a8"])
    parser.add_argument("--folder", type=Path, default=None, help="for the files, which are deleted afterwards")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, target = Path(folder) / "zeros.safetensors", Path(folder) / "quantised.safetensors"
        size = write_zeros(source, args.depth)
        for form in args.formats:
            command = [sys.executable, "-m", "sana_core", "quantize", str(source), str(target), "--format", form]
            peak, seconds = peak_of([*command, "--quiet", "--overwrite"])
            made = target.stat().st_size / 1e9
            print(f"{form}: {size / 1e9:.2f} -> {made:.2f} GB, peak {peak:.2f} GB (at most {LIMIT}), {seconds:.0f} s")  # noqa: T201


if __name__ == "__main__":
    main()

"""The options that ComfyUI is started with: the quick start draws the same picture, but for the rounding of the number
types that they choose.

--lowvram and --novram cannot stand beside --cpu: ComfyUI refuses the pair. `tests/nodes/test_launch_options.py` tries
what they do.
"""

import contextlib

import numpy as np
import pytest
from e2e.server import Server
from PIL import Image
from workflows.templates import load_prompt

pytestmark = pytest.mark.slow
MEMORY = "--disable-smart-memory --cpu-vae --cache-none --fp32-text-enc --fast"
OPTIONS = {  # that go together; the largest mean difference of the picture, in levels of 0 to 255; words of the log
    "memory": (MEMORY, 0.0, ""),
    "channels last": ("--force-channels-last --cache-classic", 0.5, ""),  # sums in another order
    "float16": ("--force-fp16 --fp16-vae --fp16-text-enc", 0.5, "DC-AE overflows in float16"),
    "bfloat16": ("--bf16-unet --bf16-vae --bf16-text-enc", 2.0, ""),  # 8 bits of a number; found: 0.3
}


@contextlib.contextmanager
def started(runnable, base, options=()):
    server = Server(*runnable, base, options=options)
    try:
        yield server
    finally:
        server.stop()


def drawn(server):
    """The picture of the quick start, twice: (256, 256, 3)."""
    pictures = []
    for _ in range(2):
        (entry,) = server.run(load_prompt("SANA-quick-start"))["4"]["images"]
        with Image.open(server.base / "output" / entry["filename"]) as picture:
            pictures.append(np.asarray(picture.convert("RGB")).astype(int))
    assert np.array_equal(*pictures)
    return pictures[0]


@pytest.fixture(scope="module")
def plain(runnable, tmp_path_factory):
    with started(runnable, tmp_path_factory.mktemp("plain")) as server:
        return drawn(server)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_quick_start_is_the_same(runnable, plain, tmp_path, name):
    options, tolerance, said = OPTIONS[name]
    with started(runnable, tmp_path, options.split()) as server:
        found = drawn(server)
        log = server.output()
    difference = np.abs(found - plain).mean()
    assert difference <= tolerance and said in log
    assert found.std() > 20.0  # neither black nor grey

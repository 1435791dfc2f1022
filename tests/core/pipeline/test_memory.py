"""A run that is short of memory ends with its pictures."""

import pytest
import tiny_pipeline
import torch

from sana_core.pipeline import load_pipeline
from sana_core.pipeline.memory import out_of_memory, with_smaller_tiles

SAID = [
    "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate",
    "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    "MPS backend out of memory (MPS allocated: 8.00 GB)",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return load_pipeline(tiny_pipeline.write_files(tmp_path_factory.mktemp("sana")), device="cpu")


def test_what_means_out_of_memory():
    assert out_of_memory(torch.OutOfMemoryError("x")) and out_of_memory(MemoryError())
    assert all(out_of_memory(RuntimeError(text)) for text in SAID)
    assert not any(map(out_of_memory, (RuntimeError("shape mismatch"), ValueError(SAID[0]), KeyboardInterrupt())))


def test_tiles_get_smaller_until_they_fit(caplog):
    tried = []

    def work(tile):
        tried.append(tile)
        if tile is None or tile > 384:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tile

    assert with_smaller_tiles(work, None) == 384 and tried == [None, 2048, 1024, 768, 512, 384]
    tried.clear()
    assert with_smaller_tiles(work, 512) == 384 and tried == [512, 384]
    tried.clear()
    assert with_smaller_tiles(work, 256) == 256 and tried == [256]
    assert "out of memory with the whole picture at once: trying tiles of 2048 pixels" in caplog.text


def test_the_last_error_is_the_allocators():
    def work(tile):
        raise torch.OutOfMemoryError(f"tile {tile}")

    with pytest.raises(torch.OutOfMemoryError, match="tile 128"):
        with_smaller_tiles(work, 512)


def test_other_errors_are_not_tried_again():
    tried = []

    def work(tile):
        tried.append(tile)
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        with_smaller_tiles(work, None)
    assert tried == [None]


def test_finished_latents_are_decoded_in_smaller_tiles(pipeline, monkeypatch):
    settings = {"seed": 1, "steps": 1, "width": 256, "height": 160, "output": "tensor"}
    expected = pipeline("a cat", **settings)
    decode = pipeline.autoencoder.decode

    def small_card(latents, *, tile):
        if tile is None or tile > 128:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, tile=tile)

    monkeypatch.setattr(pipeline.autoencoder, "decode", small_card)
    torch.testing.assert_close(pipeline("a cat", **settings), expected, atol=1e-4, rtol=0)


def test_a_batch_is_decoded_one_by_one(pipeline, monkeypatch):
    """The estimate by which a tile is chosen is that of one picture."""
    sizes = []
    decode, encode = pipeline.autoencoder.decode, pipeline.autoencoder.encode
    monkeypatch.setattr(pipeline.autoencoder, "decode", lambda x, *, tile: sizes.append(len(x)) or decode(x, tile=tile))
    monkeypatch.setattr(pipeline.autoencoder, "encode", lambda x, *, tile: sizes.append(len(x)) or encode(x, tile=tile))
    pictures = pipeline("a cat", seed=1, steps=1, batch_size=3, image=torch.rand(3, 3, 64, 96))
    assert len(pictures) == 3 and sizes == [1] * 6

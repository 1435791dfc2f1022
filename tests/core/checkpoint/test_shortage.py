"""Too little memory while a file is read: the error passes as it is, and no file is called damaged for it."""

import errno

import pytest
import torch
from safetensors.torch import save_file

from sana_core.checkpoint import files, pickles, safetensors_file
from sana_core.checkpoint.files import read_checkpoint
from sana_core.errors import CheckpointError
from sana_core.shortage import out_of_memory

ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate {} bytes. Error code 12"
SHORT = [
    MemoryError("Cannot allocate memory (os error 12)"),
    RuntimeError(ALLOCATOR.format(400)),
    RuntimeError("unable to mmap 400 bytes from file </a/b.pth>: Cannot allocate memory (12)"),
    torch.OutOfMemoryError("CUDA out of memory"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    OSError("The paging file is too small for this operation to complete. (os error 1455)"),
]


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


@pytest.fixture
def path(tmp_path, request):
    found = tmp_path / f"m.{request.param}"
    tensors = {"a": torch.zeros(300)}
    save_file(tensors, found) if request.param == "safetensors" else torch.save(tensors, found)
    return found


@pytest.mark.parametrize("error", SHORT, ids=lambda error: f"{type(error).__name__} {error}"[:30])
@pytest.mark.parametrize("path", ["safetensors", "pth"], indirect=True)
def test_it_passes(path, error, monkeypatch):
    monkeypatch.setattr(safetensors_file, "safe_open", failing(error))
    monkeypatch.setattr(pickles.torch, "load", failing(error))
    with pytest.raises(type(error)) as found:
        read_checkpoint(path)
    assert found.value is error and out_of_memory(error)


def test_listing_a_folder_may_run_out_of_it_too(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "weight_files", failing(SHORT[4]))
    with pytest.raises(OSError) as found:
        read_checkpoint(tmp_path)
    assert found.value is SHORT[4]


@pytest.mark.parametrize("path", ["pth"], indirect=True)
def test_a_file_that_asks_for_more_than_it_holds_is_damaged(path, monkeypatch):
    monkeypatch.setattr(pickles.torch, "load", failing(RuntimeError(ALLOCATOR.format(2**50))))
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        read_checkpoint(path)

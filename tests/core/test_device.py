"""What a device can do, from the answers of PyTorch's few queries."""

import contextlib
from types import SimpleNamespace

import pytest
import tiny
import torch

from sana_core import device as devices
from sana_core.device import can_compute, free_memory, has_float64, pick_device, usable
from sana_core.errors import InputError
from sana_core.precision import companion_dtype, full_range, loaded_dtype, run_dtypes

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16


@pytest.fixture
def present(monkeypatch):
    """Makes exactly these kinds of GPUs present."""

    def make(*kinds):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: "xpu" in kinds)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)

    return make


@pytest.fixture
def card(monkeypatch):
    """A CUDA card with or without bfloat16, whose emulation PyTorch always offers."""

    def make(bf16):
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16 or including_emulation
        )
        return torch.device("cuda:0")

    return make


@pytest.fixture
def mac(monkeypatch):
    def make(version):
        monkeypatch.setattr(
            torch.backends.mps, "is_macos_or_newer", lambda major, minor: version >= (major, minor), raising=False
        )
        return torch.device("mps")

    return make


@pytest.fixture
def xpu(monkeypatch):
    def make(**properties):
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: SimpleNamespace(**properties))
        return torch.device("xpu:0")

    return make


@pytest.mark.parametrize(
    ("kinds", "picked"),
    [((), "cpu"), (("mps",), "mps"), (("xpu",), "xpu"), (("mps", "xpu"), "xpu"), (("cuda", "xpu", "mps"), "cuda")],
)
def test_the_gpu_that_is_there_is_picked(present, kinds, picked):
    present(*kinds)
    assert pick_device(None).type == picked


def test_what_is_no_device_is_refused():
    for wrong in ("gpu", 3.5, ["cpu"]):
        with pytest.raises(InputError, match="is not a device"):
            pick_device(wrong)


@pytest.mark.parametrize(("bf16", "expected"), [(True, BF16), (False, F32)])
def test_bfloat16_needs_hardware(card, bf16, expected):
    place = card(bf16)
    assert usable(BF16, place) == companion_dtype(BF16, place) == companion_dtype(None, place) == expected
    assert usable([BF16, F16], place) == (BF16 if bf16 else F16)
    assert full_range(F16, "DC-AE", place) == expected
    assert can_compute(place, F16) and has_float64(place)


def test_a_companion_of_float32_is_float32(card):
    assert companion_dtype(F32, card(True)) == F32 and companion_dtype(F16, card(True)) == BF16


@pytest.mark.parametrize("trained", [True, False, None])
def test_a_transformer_runs_in_what_the_card_computes_in(card, trained):
    config = tiny.transformer_config(fp16_trained=trained)
    old, new = card(False), card
    assert BF16 not in run_dtypes(config, old)
    assert loaded_dtype(config, BF16, old) == (F16 if trained else F32)
    assert loaded_dtype(config, F32, old) == F32
    assert loaded_dtype(config, BF16, new(True)) == (F16 if trained else BF16)
    assert loaded_dtype(config, BF16, "cpu") == loaded_dtype(config, BF16)


@pytest.mark.parametrize(("version", "expected"), [((13, 6), F32), ((14, 0), BF16), ((15, 1), BF16)])
def test_apples_bfloat16_came_with_macos_14(mac, version, expected):
    assert usable(BF16, mac(version)) == expected and usable(F16, mac(version)) == F16
    assert not has_float64(mac(version))


def test_intels_devices_say_what_they_can(xpu):
    arc = xpu(has_fp64=False, has_fp16=True, has_bfloat16_conversions=True)
    assert usable(BF16, arc) == BF16 and not has_float64(arc)
    old = xpu(has_fp64=True, has_fp16=False, has_bfloat16_conversions=False)
    assert usable([BF16, F16], old) == F32 and has_float64(old)
    assert usable(BF16, xpu()) == BF16  # an older PyTorch does not know


@pytest.mark.parametrize("place", ["cpu", "meta"])
def test_the_cpu_computes_in_every_type(place):
    assert all(can_compute(torch.device(place), dtype) for dtype in (F64, F32, F16, BF16))


def test_free_memory_of_gpus(monkeypatch, xpu):
    for backend in (torch.cuda, torch.xpu):
        monkeypatch.setattr(backend, "memory_reserved", lambda device: 300)
        monkeypatch.setattr(backend, "memory_allocated", lambda device: 100)
        monkeypatch.setattr(backend, "mem_get_info", lambda device: (1000, 5000), raising=False)
    assert free_memory("cuda:0") == free_memory(xpu(total_memory=5000)) == 1200
    monkeypatch.delattr(torch.xpu, "mem_get_info")
    assert free_memory("xpu:0") == 4900
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 700)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 200)
    assert free_memory("mps") == 500
    assert free_memory("meta") is None


def test_free_memory_of_the_cpu(monkeypatch, tmp_path):
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(devices, "MEMINFO", meminfo)
    meminfo.write_text("MemTotal:  9 kB\nMemAvailable:       5 kB\n")
    assert free_memory("cpu") == 5 * 1024
    meminfo.write_text("MemTotal: 9 kB\n")  # before Linux 3.14
    monkeypatch.setattr(devices.os, "sysconf", {"SC_AVPHYS_PAGES": 3, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert free_memory("cpu") == 3 * 4096
    monkeypatch.delattr(devices.os, "sysconf")  # Windows
    assert free_memory("cpu") is None

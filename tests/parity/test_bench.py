"""The benchmarks run, and say so where something is off."""

from __future__ import annotations

import json
import re

import pytest
import tiny_text
import torch

from bench import memory
from bench.networks import AUTOENCODERS
from sana_core.dcae.memory import decode_peak_bytes

counts_gemma = pytest.mark.skipif(
    not tiny_text.gemma_runs_on("meta"), reason="this PyTorch cannot run transformers' Gemma-2 on the meta device"
)


@pytest.mark.slow
@counts_gemma
def test_memory_tells_every_row_and_holds_the_formulas(tmp_path, capsys):
    path = tmp_path / "memory.json"
    assert memory.main(["--device", "meta", "--pixels", "1024", "--json", str(path)]) == 0
    said, rows = capsys.readouterr().out, json.loads(path.read_text())["rows"]
    assert "Every formula holds within 10 %." in said and "counted on the meta device" in said
    bytes_of = {(row["network"], row["task"], row["how"]): row["activations"] for row in rows}
    full = {
        how: count
        for (network, task, how), count in bytes_of.items()
        if (network, task) == ("DC-AE 1.0, 1.1", "decode")
    }
    assert list(full) == [
        "diffusers",
        "diffusers, tiles of 512",
        "sana_core",
        "sana_core, tiles of 1024",
        "sana_core, tiles of 512",
    ]
    assert full["diffusers"] > full["sana_core"] > full["sana_core, tiles of 1024"] > full["sana_core, tiles of 512"]
    assert all(
        row["formula"] for row in rows if row["network"].startswith("DC-AE") and row["how"].startswith("sana_core")
    )
    assert {network for network, task, _ in bytes_of if task == "step"} == {"0.6B", "1.6B"}


@pytest.mark.slow
@counts_gemma
def test_memory_names_a_formula_that_is_off(monkeypatch, capsys):
    monkeypatch.setattr(memory, "TRANSFORMERS", {})
    monkeypatch.setattr(memory, "AUTOENCODERS", {"DC-AE": AUTOENCODERS["DC-AE Lite"]})
    monkeypatch.setattr(
        memory, "decode_peak_bytes", lambda *given: decode_peak_bytes(*given) * (1.5 if given[3] == 512 else 1)
    )
    assert memory.main(["--device", "meta", "--pixels", "1024"]) == 1
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert re.fullmatch(
        r"DC-AE, decode 1024, sana_core, tiles of 512: 3\d% off the formula of sana_core/dcae/memory\.py", last
    )


@pytest.mark.slow
@pytest.mark.parametrize(("pixels", "tile", "gigabytes"), [(4096, 1024, 2.0), (4096, 512, 1.6), (2048, 512, 0.9)])
def test_decoding_stays_within_its_targets(pixels, tile, gigabytes):
    model = memory.autoencoder(AUTOENCODERS["DC-AE 1.0, 1.1"], torch.device("meta"), torch.bfloat16)
    latent = torch.empty(1, 32, pixels // 32, pixels // 32, dtype=torch.bfloat16, device="meta")
    activations = memory.peak(lambda: model.decode(latent, tile=tile))
    assert activations is not None and activations + memory.weight_bytes(model.decoder) < gigabytes * 1e9

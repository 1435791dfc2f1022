"""The memory that the README promises, by the table of `bench/training_memory.py`."""

import pytest

from bench.training_memory import CASES, table

LIMITED = {case.network: case for case in CASES if case.limit}


@pytest.mark.slow
@pytest.mark.parametrize(("network", "card"), [("SANA 1.6B", 8e9), ("SANA-1.5 4.8B", 16e9)])
def test_a_lora_fits_the_card(network, card):
    """Rank 16 at 1024 px, one picture at once, AdamW, bfloat16. 1 GB is left for CUDA."""
    case = LIMITED[network]
    assert (case.kind, case.optimizer, case.limit) == ("LoRA", "adamw", card - 1e9)
    found = case.count(1024, checkpointing=True)
    assert found.weights < found.peak <= case.limit


@pytest.mark.slow
def test_the_table(monkeypatch):
    monkeypatch.setattr("bench.training_memory.CASES", CASES[:1])
    missed = []
    head, rule, row = table([512], missed)
    assert head.count("|") == rule.count("|") == row.count("|") and row.startswith(
        "| LoRA of SANA 0.6B | 8.3 | adamw |"
    )
    again, kept = (float(cell) for cell in row.split("|")[5:7])
    assert again < kept and not missed

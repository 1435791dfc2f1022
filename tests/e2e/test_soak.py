"""The soak, shortened: it passes, and it would notice what it is there to notice."""

from dataclasses import replace
from random import Random

import pytest

from tools.soak import killed
from tools.soak.client import CANCELLED, DRAWN, Client, Tally, draw
from tools.soak.jobs import MODELS, WAYS, drawn

JOBS = 24


@pytest.fixture(scope="module")
def server(packaged):
    return packaged


@pytest.fixture
def alone(server):
    """A tally that knows each of some jobs."""
    tally = Tally()
    for job in drawn(Random(1), 8):
        draw(server, tally, job, "alone", "alone")
    assert tally.wrong == [] and tally.ends[DRAWN] == 8
    return tally


def test_two_clients_with_cancels(server, alone):
    clients = [Client(server, alone, list(alone.expected), JOBS // 2, name, seed) for seed, name in enumerate("ab")]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert alone.wrong == [] and sum(alone.ends.values()) == 8 + JOBS
    assert alone.ends[DRAWN] > JOBS / 2 and set(alone.ends) <= {DRAWN, CANCELLED}


def test_another_picture_and_another_end_are_noticed(server, alone):
    job = next(iter(alone.expected))
    alone.expected[job] = ["another"] * job.batch
    draw(server, alone, job, "wrong", "a")
    unknown = replace(job, lora="sana_nano_style.safetensors", model="SANA1.5_1.6B_1024px.pth")
    draw(server, alone, unknown, "unexpected", "a")
    differs, failed = alone.wrong
    assert (
        "differs from the same job drawn alone" in differs
        and failed.startswith("unexpected failed: ")
        and "this LoRA is of another model" in failed
    )


def test_jobs_are_of_every_kind_and_the_same_for_a_seed():
    jobs = drawn(Random(0), 60)
    assert jobs == drawn(Random(0), 60) and len(set(jobs)) == 60
    assert {(job.model, job.way) for job in jobs} == {(model, way) for model in MODELS for way in WAYS}
    assert sum(job.is_wrong for job in jobs) == 3
    assert any(job.control for job in jobs) and any(job.lora for job in jobs) and any(job.tiles for job in jobs)


def test_files_that_are_not_whole_are_noticed(tmp_path):
    (tmp_path / "user").mkdir()
    (tmp_path / "output").mkdir()
    assert killed.broken(tmp_path) == ([], [])
    (tmp_path / "user" / "half.json").write_text('{"a": ')
    (tmp_path / "user" / "half.safetensors").write_bytes(b"12345678")
    (tmp_path / "output" / "half.png").write_bytes(b"\x89PNG")
    ours, pictures = killed.broken(tmp_path)
    assert [line.split(":")[0] for line in sorted(ours)] == ["half.json", "half.safetensors"]
    assert pictures[0].startswith("half.png")

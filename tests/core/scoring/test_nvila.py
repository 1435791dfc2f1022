"""The verifier's process: a stand-in speaks its language, is late, dies, and babbles."""

import base64
import io
import json
import logging
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from PIL import Image

from sana_core.errors import InputError
from sana_core.scoring import load_scorer, select
from sana_core.scoring.nvila import PYTHON, QUESTION, SCRIPT, NvilaScorer, VerifierError

BEGIN = """
import base64, io, json, os, sys, time
from PIL import Image
def answer(**values): print(json.dumps(values), flush=True)
def level(line): return Image.open(io.BytesIO(base64.b64decode(json.loads(line)["picture"]))).getpixel((0, 0))[0]
"""
ANSWERING = """
answer(ready=True)
for line in sys.stdin:
    answer(answer="yes" if level(line) > 99 else "no", yes=level(line) / 10, no=-level(line) / 10)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "verifier").mkdir()
    (tmp_path / "verifier" / "config.json").write_text("{}")
    return tmp_path / "verifier"


@pytest.fixture
def verifier(tmp_path, folder):
    """A scorer whose process runs the given lines."""
    made = []

    def make(body, **seconds):
        script = tmp_path / "stand_in.py"
        script.write_text(BEGIN + textwrap.dedent(body))
        made.append(NvilaScorer(folder, sys.executable, script=script, **seconds))
        return made[-1]

    yield make
    for scorer in made:
        scorer.close()


def grey(*levels):
    return [Image.new("RGB", (32, 32), (level, level, level)) for level in levels]


def test_verdicts_rank_pictures(verifier):
    scorer, levels = verifier(ANSWERING), [40, 120, 90, 200]
    found = select(lambda seeds: [(grey(levels[at])[0], None) for at in seeds], range(4), "a cat", scorer, keep=3)
    assert [kept.seed for kept in found.best] == [3, 1, 2]
    assert not found.failures and sorted(found.scores, reverse=True)[1] > 0.5 > sorted(found.scores)[1]


def test_the_question_is_upstreams():
    """NVlabs/Sana, tools/inference_scaling/nvila_sana_pick.py."""
    assert QUESTION.format(prompt="a {cat}") == (
        "You are an AI assistant specializing in image analysis and ranking. Your task is to analyze and compare image "
        "based on how well they match the given prompt.\nThe given prompt is:a {cat}. Please consider the prompt and "
        "the image to make a decision and response directly with 'yes' or 'no'.\n"
    )


def test_the_process_is_asked_with_the_prompt(verifier):
    scorer = verifier("""
        answer(ready=True)
        for line in sys.stdin:
            answer(answer="Yes.", yes=float("a cat" in json.loads(line)["text"]), no=0.0)
        """)
    assert [(said.answer, said.yes) for said in scorer(grey(0, 1), ["a cat", "a dog"])] == [(True, 1.0), (True, 0.0)]


@pytest.mark.parametrize("body, said", [
    ("sys.exit('no such thing')", "process has ended, exit code 1: no such thing"),
    ("answer(error='OSError: no weights')", r"cannot be loaded \(OSError: no weights\)"),
    ("print('loading', flush=True)", "the verifier said 'loading', expected a JSON object"),
    ("time.sleep(60)", "did not answer in 1 s"),
])  # fmt: skip
def test_a_verifier_that_cannot_be_loaded_is_refused(verifier, body, said):
    started = time.monotonic()
    with pytest.raises(InputError, match=said):
        verifier(body, loading=1.0 if "sleep" in body else 60.0)
    assert time.monotonic() - started < 30


FAILURES = {
    "dies": ("os._exit(7)", "process has ended, exit code 7"),
    "is late": ("time.sleep(60)", "did not answer in 1 s"),
    "babbles": ("print('Well, ...', flush=True)", "the verifier said"),
    "says maybe": ("answer(answer='maybe', yes=0, no=0)", "expected yes or no"),
    "has no logit": ("answer(answer='yes', yes=None, no=0)", "expected yes or no"),
    "fails": ("answer(error='RuntimeError: out of memory')", r"failed \(RuntimeError: out of memory\)"),
}


@pytest.mark.parametrize("body, said", FAILURES.values(), ids=FAILURES)
def test_no_picture_is_lost_and_the_next_round_asks_again(verifier, caplog, body, said):
    """The third picture does it. Its round stays without scores; the process of the next round is a new one."""
    scorer = verifier(f"""
        answer(ready=True)
        for line in sys.stdin:
            if level(line) == 2:
                {body}
            else:
                answer(answer="yes", yes=level(line), no=0)
        """, answering=1.0)  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="sana"):
        found = select(
            lambda seeds: [(grey(at)[0], None) for at in seeds], range(8), "a cat", scorer, keep=8, at_once=4
        )
    assert [kept.seed for kept in found.best] == [7, 6, 5, 4, 0, 1, 2, 3]
    assert found.scores[:4] == [None] * 4 and len(caplog.records) == len(found.failures) == 1
    with pytest.raises(VerifierError, match=said):
        scorer(grey(2), ["a cat"])


def test_a_process_that_takes_no_picture_is_late(verifier):
    scorer = verifier("answer(ready=True)\ntime.sleep(60)", answering=1.0)
    noise = Image.frombytes("RGB", (512, 512), os.urandom(512 * 512 * 3))  # more than a pipe holds
    with pytest.raises(VerifierError, match="did not answer in 1 s"):
        scorer([noise], ["a cat"])
    assert not scorer.runs


def test_close_ends_the_process(verifier):
    scorer = verifier(ANSWERING)
    process = scorer._process.process
    scorer.close()
    assert process.poll() is not None
    assert scorer(grey(200), ["a cat"])[0].answer  # starts another


def test_the_process_ends_with_its_owner(verifier, tmp_path):
    script = tmp_path / "stand_in.py"
    script.write_text(BEGIN + ANSWERING.replace("answer(ready", "answer(pid=os.getpid(), ready"))
    code = (
        f"from sana_core.scoring.nvila import NvilaScorer; import os, sys\n"
        f"scorer = NvilaScorer({str(tmp_path / 'verifier')!r}, sys.executable, script={str(script)!r})\n"
        "print(scorer._process.process.pid, flush=True); os._exit(0)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, cwd=SCRIPT.parents[2]
    )
    for _ in range(100):
        if not Path(f"/proc/{said.stdout.strip()}/cmdline").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the verifier's process has outlived its owner")


def test_what_is_missing_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.delenv(PYTHON, raising=False)
    with pytest.raises(InputError, match=r"name it with --verifier-python or \$SANA_VERIFIER_PYTHON"):
        load_scorer(f"nvila:{folder}")
    with pytest.raises(InputError, match=r"no-python cannot be started \(No such file"):
        load_scorer(f"nvila:{folder}", verifier_python=tmp_path / "no-python")
    with pytest.raises(InputError, match=r"has no config\.json: expected the folder of NVILA"):
        load_scorer(f"nvila:{tmp_path}", verifier_python=sys.executable)


MODEL = """
import torch
class Tokenizer:
    def encode(self, word, add_special_tokens):
        assert not add_special_tokens
        return {"yes": [3, 9], "no": [5, 9]}[word]
class Model:
    tokenizer = Tokenizer()
    def generate_content(self, parts):
        picture, text = parts
        print("the model's own code prints")
        if picture.size == (1, 1):
            raise ValueError("too small")
        scores = torch.zeros(1, 8)
        scores[0, 3], scores[0, 5] = picture.getpixel((0, 0))[0], -1
        return "yes" if "cat" in text else "no", (scores,)
class AutoModel:
    @staticmethod
    def from_pretrained(folder, trust_remote_code, device_map):
        print("loading", folder)
        return Model()
"""


def test_the_script_itself_beside_a_stand_in_of_transformers(folder, tmp_path, monkeypatch):
    """It uses the model as upstream does, and what the model prints is no answer."""
    (tmp_path / "transformers.py").write_text(MODEL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    scorer = load_scorer(f"nvila:{folder}", verifier_python=sys.executable)
    said = scorer(grey(7, 9), ["a cat", "a dog"])
    assert [(one.answer, one.yes, one.no) for one in said] == [(True, 7.0, -1.0), (False, 9.0, -1.0)]
    with pytest.raises(VerifierError, match=r"failed \(ValueError: too small\)"):
        scorer([Image.new("RGB", (1, 1))], ["a cat"])
    assert scorer(grey(7), ["a cat"])[0].answer
    scorer.close()


def test_the_script_needs_nothing_of_the_pack(tmp_path):
    """The other Python has neither the pack nor its packages."""
    asked = json.dumps({"picture": base64.b64encode(io.BytesIO().getvalue()).decode(), "text": ""})
    ran = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), str(tmp_path)], input=asked, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert ran.returncode == 1 and json.loads(ran.stdout)["error"].startswith(
        "ModuleNotFoundError: No module named 'torch'"
    )

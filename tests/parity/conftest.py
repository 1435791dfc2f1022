"""The judge of fidelity: diffusers on tiny random models in the published layouts.

`oracle` runs the scripts `make_fixtures.py` and `reference.py` from the folder in SANA_ORACLE (default: `shared/oracle` beside the
checkout), once per session, or once for all where SANA_ORACLE_CACHE names a folder to keep the results in. Where the scripts or diffusers
are missing the tests that need them are skipped; the other tests here build their own models and need diffusers only.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPTS = Path(os.environ.get("SANA_ORACLE", Path(__file__).parents[3] / "shared" / "oracle"))


@dataclass(frozen=True)
class Oracle:
    fixtures: Path
    reference: dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def oracle_scripts():
    pytest.importorskip("diffusers", reason="diffusers is the reference these tests compare with")
    if not (SCRIPTS / "reference.py").is_file():
        pytest.skip(f"no oracle scripts at {SCRIPTS}; set SANA_ORACLE to their folder")
    return SCRIPTS


@pytest.fixture(scope="session")
def oracle(oracle_scripts, tmp_path_factory):
    pytest.importorskip("peft", reason="the oracle's fixtures are made with peft")
    folder = Path(os.environ.get("SANA_ORACLE_CACHE") or tmp_path_factory.mktemp("oracle"))
    fixtures, reference = folder / "fix", folder / "ref.safetensors"
    if not reference.is_file():
        sections = "transformer,vae,text,schedules,sana"
        subprocess.run([sys.executable, oracle_scripts / "make_fixtures.py", fixtures], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            [sys.executable, oracle_scripts / "reference.py", fixtures, reference, "--only", sections],
            check=True,
            stdout=subprocess.DEVNULL,
        )
    return Oracle(fixtures, load_file(reference))

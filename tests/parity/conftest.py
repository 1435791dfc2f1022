"""The judge of fidelity: diffusers on tiny random models in the published layouts.

`oracle` runs the scripts `make_fixtures.py` and `reference.py` from the folder in SANA_ORACLE (default: `shared/oracle`
beside the checkout), once per session, or once for all where SANA_ORACLE_CACHE names a folder to keep the results in.
Where the scripts or diffusers are missing the tests that need them are skipped; the other tests here build their own
models and need diffusers only.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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
        for script, *arguments in (("make_fixtures.py", fixtures), ("reference.py", fixtures, reference)):
            subprocess.run([sys.executable, oracle_scripts / script, *arguments], check=True, stdout=subprocess.DEVNULL)
    return Oracle(fixtures, load_file(reference))


@pytest.fixture(scope="session")
def text_file(oracle, tmp_path_factory):
    """ComfyUI's single file of the text encoder, its tiny heads stated as the real file need not."""
    path = tmp_path_factory.mktemp("text") / "gemma2.safetensors"
    config = json.loads((oracle.fixtures / "manifest.json").read_text())["gemma"]
    save_file(
        load_file(oracle.fixtures / "text" / "gemma2_comfy.safetensors"), path, metadata={"config": json.dumps(config)}
    )
    return path

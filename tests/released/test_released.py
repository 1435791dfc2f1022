"""Released weights, where SANA_WEIGHTS names a folder of them (such as ComfyUI's `models`): `verify` with each
transformer and ControlNet. Reports and pictures go to SANA_REPORTS, else to a folder of the tests. Nobody has run this
on released weights yet; it was tried on tiny models.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from sana_core.cli import main
from sana_core.doctor.search import found_models

FOLDER = os.environ.get("SANA_WEIGHTS")
FOUND = found_models([Path(FOLDER)], torch.device("cpu")) if FOLDER else []


def paths(kind):
    """Files or folders with a usable part of this kind, and the part."""
    usable = [(model, part) for model in FOUND for part in model.parts if part.kind == kind and part.problem is None]
    return [(model.folder / model.name, part) for model, part in usable]


TRANSFORMERS = paths("transformer")
CONTROLNETS = paths("controlnet")
ALL = [(path, part, None) for path, part in TRANSFORMERS] + [
    (path, part, control)
    for control, wanted in CONTROLNETS
    for path, part in TRANSFORMERS
    if part.details.get("hidden_size") == wanted.details.get("hidden_size")
]


@pytest.mark.skipif(not FOLDER, reason="SANA_WEIGHTS names no folder of released weights")
def test_the_folder_has_what_a_picture_needs():
    assert TRANSFORMERS and paths("autoencoder") and paths("text encoder")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "part", "control"),
    ALL or [pytest.param(None, None, None, marks=pytest.mark.skip("SANA_WEIGHTS has no transformer"))],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_a_release_is_right_on_this_machine(path, part, control, tmp_path, capsys):
    width = part.details["caption_channels"]
    encoder = next(file for file, found in paths("text encoder") if found.details["hidden_size"] == width)
    reports = Path(os.environ.get("SANA_REPORTS", tmp_path))
    reports.mkdir(parents=True, exist_ok=True)
    options = [f"--transformer={path}", f"--autoencoder={paths('autoencoder')[0][0]}", f"--text-encoder={encoder}"]
    options += [f"--controlnet={control}"] if control else []
    name = path.stem if control is None else f"{path.stem}-{control.stem}"
    code = main(["verify", *options, f"--report={reports / name}.md", "--json", "--quiet", "--overwrite"])
    report = json.loads(capsys.readouterr().out)
    bad = [check for check in report["checks"] if check["verdict"] in ("DISAGREES", "FAILED")]
    assert code == 0, bad
    assert any(check["verdict"] == "agrees" and "diffusers" in check["against"] for check in report["checks"])

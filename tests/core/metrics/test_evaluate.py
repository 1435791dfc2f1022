"""FID, KID and CLIP score equal the libraries' own; what is missing or damaged is named."""

import json
import sys
import tarfile

import numpy as np
import pytest
import torch

from sana_core.cli.main import main
from sana_core.errors import SanaError
from sana_core.metrics.clip import load_clip
from sana_core.metrics.evaluate import Settings, evaluate
from sana_core.metrics.statistics import read_statistics

from .conftest import picture

COUNT = 12


class Couples(torch.utils.data.Dataset):
    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.pixels[index]


@pytest.fixture
def folders(tmp_path):
    """Two folders of random pictures of one size, and their pixels."""
    sides = {}
    for start, name in ((0, "a"), (100, "b")):
        sides[name] = [picture(tmp_path / name / f"{number:02}.png", start + number) for number in range(COUNT)]
    return tmp_path / "a", tmp_path / "b", sides


def settings(folders, inception, **changed):
    values = {"pictures": folders[0], "reference": folders[1], "inception": inception, "layer": "64", "batch": 5}
    return Settings(**{**values, "device": "cpu", "kid_subset_size": 6, **changed})


def test_equal_to_torch_fidelity(folders, inception, torch_fidelity):
    """The same numbers as `calculate_metrics` on the same pictures and weights."""
    theirs = torch_fidelity.calculate_metrics(
        input1=Couples(folders[2]["a"]), input2=Couples(folders[2]["b"]), cuda=False, fid=True, kid=True,
        batch_size=5, kid_subset_size=6, feature_extractor_weights_path=str(inception), cache=False, verbose=False,
        feature_layer_fid="64", feature_layer_kid="64", save_cpu_ram=True,
    )  # fmt: skip
    ours = evaluate(settings(folders, inception)).values
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5, abs=1e-6)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6, abs=1e-9)
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-6, abs=1e-9)
    assert ours["fid"] > 0


def test_sizes_may_differ(folders, inception):
    """A picture of another size is measured, and each counts once."""
    picture(folders[0] / "05b.png", 7, size=(64, 48))
    report = evaluate(settings(folders, inception, metrics=("fid",)))
    assert report.pictures.count == COUNT + 1


def test_tar_is_as_the_folder(folders, inception, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(folders[0].iterdir()):
            tar.add(path, path.name)
    plain = evaluate(settings(folders, inception)).values
    assert evaluate(settings(folders, inception, pictures=tmp_path / "a.tar")).values == plain


def test_statistics_are_reused(folders, inception, tmp_path):
    saved = tmp_path / "b.npz"
    evaluate(settings(folders, inception, pictures=folders[1], reference=None, save=saved))
    assert read_statistics(saved).count == COUNT
    again = evaluate(settings(folders, inception, reference=saved))
    assert again.values == {"fid": evaluate(settings(folders, inception, metrics=("fid",))).values["fid"]}


def test_broken_pictures_are_named(folders, inception):
    (folders[0] / "03.png").write_bytes(b"no picture")
    report = evaluate(settings(folders, inception, metrics=("fid",)))
    assert report.pictures.count == COUNT - 1 and list(report.pictures.skipped) == ["03.png"]


def test_clip_score_equals_torchmetrics(folders, clip):
    """Also over several batches, with captions in .txt and .json, and one that is longer than the model reads."""
    from torchmetrics.functional.multimodal import clip_score
    from transformers import CLIPModel, CLIPProcessor

    captions = [f"{chr(97 + number)} cat" * (1 + 4 * (number == 2)) for number in range(COUNT)]
    for number, caption in enumerate(captions[:-1]):
        name = folders[0] / f"{number:02}"
        if number % 2:
            name.with_suffix(".txt").write_text(caption)
        else:
            name.with_suffix(".json").write_text(json.dumps({"prompt": caption}))
    models = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    loaded = load_clip(clip)
    with torch.no_grad():
        couples = zip(folders[2]["a"][:-1], captions)
        theirs = [float(100 * _cosine(pixels, caption, *models)) for pixels, caption in couples]
        whole = float(clip_score(folders[2]["a"][:-1], captions[:-1], lambda: (loaded.model, loaded.processor)))
    report = evaluate(settings(folders, None, reference=None, clip=clip))
    assert report.captions == COUNT - 1 and any("no caption" in note for note in report.notes)
    assert report.values["clip"] == pytest.approx(whole, abs=1e-4)
    assert report.values["clip"] == pytest.approx(max(sum(theirs) / len(theirs), 0), abs=1e-3)


def _cosine(pixels, caption, model, processor):
    """Without torchmetrics."""
    given = processor(text=[caption], images=[pixels], return_tensors="pt")
    length = model.config.text_config.max_position_embeddings
    given["input_ids"], given["attention_mask"] = given["input_ids"][:, :length], given["attention_mask"][:, :length]
    made = model(**given)
    return (made.image_embeds * made.text_embeds).sum()


def refused(**values):
    with pytest.raises(SanaError) as found:
        evaluate(Settings(**{"device": "cpu", "layer": "64", "kid_subset_size": 6, **values}))
    assert "\n" not in str(found.value)
    return str(found.value)


def test_what_is_missing_is_named(folders, inception, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.pth").write_bytes(b"\x80\x04 no weights")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    a, b, _ = folders
    assert "has no pictures" in refused(pictures=tmp_path / "empty", reference=b, inception=inception)
    assert "has no pictures" in refused(pictures=a, reference=tmp_path / "empty", inception=inception)
    assert "is missing" in refused(pictures=tmp_path / "none", reference=b, inception=inception)
    missing = refused(pictures=a, reference=b)
    assert "6726825d.pth, but no file is named" in missing and "--inception" in missing and "github.com" in missing
    assert "weights" in refused(pictures=a, reference=b, inception=tmp_path / "bad.pth")
    assert "no weights of InceptionV3" in refused(pictures=a, reference=b, inception=tmp_path / "other.pth")
    assert "pass --reference" in refused(pictures=a, metrics=("fid",), inception=inception)
    assert "nothing to compute" in refused(pictures=a)
    assert "no metric" in refused(pictures=a, reference=b, metrics=("is",))
    assert "pass --clip" in refused(pictures=a, metrics=("clip",))
    assert "has no config.json: expected a folder of a CLIP" in refused(pictures=a, clip=tmp_path / "empty")


def test_no_captions(folders, clip):
    assert "no picture has a caption" in refused(pictures=folders[0], clip=clip)


def test_too_few(folders, inception, tmp_path):
    """One metric without a value is a note; none with one is an error."""
    picture(tmp_path / "one" / "0.png", 1)
    both = {"pictures": tmp_path / "one", "reference": folders[1], "inception": inception}
    assert "at least 2" in refused(**both, metrics=("fid",))
    report = evaluate(settings(folders, inception, kid_subset_size=50))
    assert list(report.values) == ["fid"]
    assert any("--kid-subset-size" in note for note in report.notes)
    assert any("10,000" in note for note in report.notes)


def test_damaged_statistics(folders, inception, tmp_path):
    both = {"pictures": folders[0], "inception": inception}
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK no zip")
    assert "no whole .npz" in refused(**both, reference=path)
    np.savez(path, mu=np.zeros(64))
    assert "no mu and sigma" in refused(**both, reference=path)
    np.savez(path, mu=np.zeros(64), sigma=np.zeros((64, 63)))
    assert "do not fit together" in refused(**both, reference=path)
    np.savez(path, mu=np.zeros(64), sigma=np.full((64, 64), np.nan))
    assert "not finite" in refused(**both, reference=path)
    np.savez(path, mu=np.zeros(192), sigma=np.eye(192))
    assert "192 features" in refused(**both, reference=path)
    np.savez(path, mu=np.zeros(64), sigma=np.eye(64))
    assert "KID needs pictures" in refused(**both, reference=path, metrics=("kid",))
    np.savez(path, mu=np.array([{}] * 64), sigma=np.eye(64))
    assert "no whole .npz" in refused(**both, reference=path)


def test_a_missing_package_is_named(folders, inception, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    said = refused(pictures=folders[0], reference=folders[1], inception=inception)
    assert "pip install torch-fidelity" in said


def test_weights_that_run_something_are_refused(folders, tmp_path):
    """torch-fidelity itself loads pickles that run code."""

    class Bad:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"x": Bad()}, tmp_path / "bad.pth")
    refused(pictures=folders[0], reference=folders[1], inception=tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_command(folders, inception, tmp_path, capsys):
    written = tmp_path / "report.json"
    line = ["evaluate", str(folders[0]), "--reference", str(folders[1]), "--inception", str(inception), "--layer", "64"]
    assert main([*line, "--kid-subset-size", "6", "--report", str(written), "--device", "cpu", "-q"]) == 0
    report = json.loads(written.read_text())
    assert report["pictures"]["count"] == COUNT and report["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in written.read_text()
    assert f"FID             {report['values']['fid']:.4f}" in capsys.readouterr().out
    assert main([*line, "--report", str(written), "--json"]) == 2
    assert "is there already" in json.loads(capsys.readouterr().out)["error"]
    assert main([*line, "--json", "--device", "cpu", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["values"]["fid"] == pytest.approx(report["values"]["fid"], abs=1e-4)


def test_a_table_of_another_kind_does_no_harm(folders, inception, tmp_path):
    """GenEval has a metadata.jsonl beside its pictures that is none of ImageFolder's."""
    from sana_core.metrics.pictures import find_pictures

    (folders[0] / "metadata.jsonl").write_text('{"tag": "two_object", "prompt": "a cat"}')
    try:
        assert len(find_pictures(folders[0]).found) == COUNT
    finally:
        (folders[0] / "metadata.jsonl").unlink()

"""Where verify writes its report and its picture: both whole or none, under names that are free."""

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from sana_core.cli import main, verify
from sana_core.verify.checks import UNCHECKED, Check
from sana_core.verify.report import Report


@pytest.fixture
def written(monkeypatch, capsys):
    """Runs the command with a report that needs no networks: (exit code, what it said)."""
    report = SimpleNamespace(drawn=SimpleNamespace(picture=Image.new("RGB", (4, 4))), verdict="fine", bad=False)
    report.empty, report.picture = False, None
    setup = SimpleNamespace(sampling=None, config=None)
    monkeypatch.setattr("sana_core.verify.run.prepare", lambda *_, **__: (setup, {}))
    monkeypatch.setattr("sana_core.verify.run.verify", lambda *_: report)
    monkeypatch.setattr("sana_core.pipeline.request.Request.resolve", lambda *_: None)
    monkeypatch.setattr("sana_core.verify.report.markdown", lambda report: f"see {report.picture}\n")

    def run(path, *options, **changes):
        vars(report).update(changes)
        code = main(["verify", "--report", str(path), "--quiet", *options])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_names_that_are_taken_get_numbers_like_those_of_pictures(written, tmp_path):
    for _ in range(3):
        assert written(tmp_path / "r.md")[0] == 0
    both = [f"r{number}.{ending}" for number in ("-0001", "-0002", "") for ending in ("md", "png")]
    assert names(tmp_path) == both
    assert (tmp_path / "r-0002.md").read_text() == "see r-0002.png\n"


def test_the_name_of_a_picture_may_be_taken(written, tmp_path):
    (tmp_path / "r.png").touch()
    (tmp_path / "r-0007.png").touch()
    assert "r-0008.md" in written(tmp_path / "r.md")[1]
    assert names(tmp_path) == ["r-0007.png", "r-0008.md", "r-0008.png", "r.png"]


def test_with_overwrite_names_stay(written, tmp_path):
    for _ in range(2):
        written(tmp_path / "r.md", "--overwrite")
    assert names(tmp_path) == ["r.md", "r.png"]


@pytest.mark.parametrize("options", [[], ["--overwrite"]])
def test_a_full_disk_leaves_what_was_there(written, tmp_path, monkeypatch, options):
    before = ["r.md", "r.png"] if options else []
    for name in before:
        (tmp_path / name).write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sana_core.cli.verify.Path.write_text", full)
    code, said = written(tmp_path / "r.md", *options)
    assert code == 2 and said.startswith(f"sana: error: {tmp_path / 'r.md'}: no space is left on its disk: free some")
    assert names(tmp_path) == before and all((tmp_path / name).read_text() == "old" for name in before)


@pytest.mark.parametrize(("changes", "code"), [({}, 0), ({"bad": True}, 1), ({"empty": True, "drawn": None}, 2)])
def test_the_exit_code(written, tmp_path, changes, code):
    assert written(tmp_path / "r.md", **changes)[0] == code
    assert names(tmp_path) == (["r.md"] if code == 2 else ["r.md", "r.png"])


def test_a_report_without_a_result_does_not_say_that_all_agrees():
    check = Check(what="a", against="b", dtype="float32", verdict=UNCHECKED)
    made = {"machine": None, "files": [], "device": "cpu", "dtype": "float32", "warnings": [], "trouble": "no memory"}
    report = Report(checks=[check, check], **made)
    assert report.verdict.startswith("nothing could be checked: 0 of 2 comparisons agree") and not report.bad
    assert not Report(checks=[replace(check, verdict="agrees")], **made).empty


def test_two_at_once_take_two_names(written, tmp_path, monkeypatch):
    def meanwhile(*_):
        (tmp_path / "r.md").write_text("of another")

    monkeypatch.setattr("sana_core.pipeline.request.Request.resolve", meanwhile)
    assert "r-0001.md" in written(tmp_path / "r.md")[1]
    assert (tmp_path / "r.md").read_text() == "of another"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "expected the name of a text file"),
        ("x.PNG", "expected the name of a text file"),
        ("none/r.md", "there is no folder"),
        (f"{'n' * 300}.md", "cannot be written"),
        (f"{'n' * 252}.md", "cannot be written"),  # of the picture, which is longer
        ("file/r.md", "cannot be written"),
    ],
)
def test_what_cannot_be_a_report_is_refused_at_once(written, tmp_path, monkeypatch, name, said):
    monkeypatch.setattr("sana_core.verify.run.prepare", None)
    (tmp_path / "file").touch()
    code, line = written(tmp_path / name)
    assert code == 2 and said in line and line.count("\n") == 1 and names(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="this system has no /dev/null")
def test_a_device_is_no_report(written, monkeypatch):
    monkeypatch.setattr("sana_core.verify.run.prepare", None)
    code, line = written("/dev/null", "--overwrite")
    assert code == 2 and "is a device" in line


def test_a_device_that_computes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["verify", "--device", "meta", "--quiet"]) == 2
    assert "meta computes nothing" in capsys.readouterr().err and not names(tmp_path)
    assert verify.REPORT.name == "sana_verify.md"

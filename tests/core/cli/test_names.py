"""Where pictures are saved: nothing is lost, and nothing is drawn that cannot be saved."""

import json
from pathlib import Path

import pytest
from PIL import Image

import sana_core.cli as cli
from sana_core.cli import main
from sana_core.cli.names import Output
from sana_core.errors import InputError
from sana_core.pictures import saving

QUICK = ["--size", "32", "--steps", "1", "--seed", "1", "--device", "cpu", "--quiet"]
RECORD = {
    "prompt": "x", "negative_prompt": "", "steps": 1, "sampler": "s", "guidance_scale": 1, "seed": 1, "width": 1,
    "height": 1, "model": "m", "shift": 1, "batch_size": 1, "batch_index": 0,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def save(chosen, seed=1):
    return chosen.save(Image.new("RGB", (1, 1)), RECORD | {"seed": seed}).name


def several(name, **options):
    return Output(path=Path(name), several=True, **options)


def test_a_name_that_is_taken_gets_a_number(folder):
    Path("a.png").write_text("old")
    assert [save(Output(path=Path("a.png"))) for _ in range(2)] == ["a-0001.png", "a-0002.png"]
    assert Path("a.png").read_text() == "old"


def test_the_default_name_has_the_seed(folder):
    assert [save(Output(), seed) for seed in (7, 8, 7)] == ["sana_7.png", "sana_8.png", "sana_7-0001.png"]


def test_the_pictures_of_a_batch_share_a_seed_and_all_have_numbers(folder):
    chosen = several("s{seed}.png")
    names = [chosen.save(Image.new("RGB", (1, 1)), RECORD | {"seed": seed}, batch=2).name for seed in (5, 5, 6, 6)]
    assert names == ["s5-0001.png", "s5-0002.png", "s6-0001.png", "s6-0002.png"]


def test_an_unknown_placeholder_is_refused(folder):
    with pytest.raises(InputError, match=r"\{prompt\} stands for nothing, only \{seed\} does"):
        Output(path=Path("{seed}_{prompt}.png")).check([1], 1)
    Output(path=Path("{seed}_{1}.png")).check([1], 1)


def test_overwrite_replaces_what_was_there_and_no_picture_of_this_run(folder):
    for name in ("a.png", "a-0001.png", "s1.png"):
        Path(name).write_text("old")
    assert save(Output(path=Path("a.png"), overwrite=True)) == "a.png"
    chosen = several("a.png", overwrite=True)
    assert [save(chosen), save(chosen)] == ["a-0001.png", "a-0002.png"]
    chosen = several("s{seed}.png", overwrite=True)
    assert [save(chosen), save(chosen)] == ["s1.png", "s1-0001.png"]
    assert files(folder) == ["a-0001.png", "a-0002.png", "a.png", "s1-0001.png", "s1.png"]
    assert all(Image.open(name).size == (1, 1) for name in files(folder))


def test_a_link_stays_one(folder):
    Path("real.png").write_text("old")
    Path("link.png").symlink_to("real.png")
    assert save(Output(path=Path("link.png"), overwrite=True)) == "link.png"
    assert Path("link.png").is_symlink() and Image.open("real.png").size == (1, 1)


def test_numbers_go_on_after_the_highest(folder):
    for name in ("a-0002.png", "a-0007.png", "a-12.png", "a-x.png", "b-0011.png", "a-0009.jpg", "xa-0020.png"):
        Path(name).write_text("old")
    chosen = several("a.png")
    assert [save(chosen), save(chosen)] == ["a-0008.png", "a-0009.png"]
    assert all(Path(name).read_text() == "old" for name in ("a-0002.png", "a-0007.png"))
    Path("c-9999.png").write_text("old")
    assert [save(several("c.png")) for _ in range(2)] == ["c-10000.png", "c-10001.png"]


def test_numbers_that_another_process_takes_meanwhile_are_left_out(folder):
    chosen, other = several("a.png"), several("a.png")
    assert [save(chosen), save(other), save(chosen)] == ["a-0001.png", "a-0002.png", "a-0003.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_is_left_of_a_picture_that_could_not_be_written(folder, monkeypatch, overwrite):
    def full(partial, _):
        partial.write_text("half")
        raise OSError(28, "No space left on device")

    if overwrite:
        Path("a.png").write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"a\.png: no space is left on its disk: free some"):
        save(Output(path=Path("a.png"), overwrite=overwrite))
    assert files(folder) == ["a.png"] * overwrite
    assert not overwrite or Path("a.png").read_text() == "old"


def test_a_picture_that_is_too_long_for_its_format(folder):
    with pytest.raises(InputError, match=r"no WEBP can be made of the picture \(.*\): choose another format"):
        saving.save_picture(Image.new("RGB", (16384, 1)), Path("a.webp"), RECORD)
    assert files(folder) == []


@pytest.mark.parametrize("stem", ["a" * 251, "a" * 250, "\u732b" * 83], ids=len)
def test_names_that_get_too_long_with_their_number(folder, stem):
    path = Path(f"{stem}.png")
    with pytest.raises(InputError, match=r"cannot be written \(File name too long\): name with --output"):
        several(path).check([1], 2)
    if len(path.name.encode()) <= 255:
        Output(path=path).check([1], 1)
    for long in ("new" / path, Path("b" * 300) / "x.png"):  # in a folder that is still to be made, too
        with pytest.raises(InputError, match="too long"):
            several(long).check([1], 2)
    with pytest.raises(InputError, match="too long"):
        Output(path=Path("a" * 245 + "{seed}.png")).check([2**32], 1)
    assert files(folder) == []


def test_the_last_number_counts(folder):
    chosen = several("a" * 246 + ".png")  # -9999 fits, -10000 does not
    chosen.check([1], 9999)
    with pytest.raises(InputError, match="too long"):
        chosen.check([1], 10000)


def test_a_long_name_is_refused_before_anything_is_drawn(folder, monkeypatch, capsys):
    drawn, real = [], cli._draw
    monkeypatch.setattr(cli, "_draw", lambda *a: drawn.append(1) or real(*a))
    assert main(["a cat", "--batch", "2", "-o", "a" * 250 + ".png", *QUICK]) == 2
    assert "--output" in capsys.readouterr().err and not drawn and files(folder) == []
    assert main(["a cat", "--batch", "2", "-o", "a.png", *QUICK]) == 0
    assert drawn == [1] and files(folder) == ["a-0001.png", "a-0002.png"]


def test_batches_in_a_prompt_file_are_numbered_on(folder):
    Path("p.jsonl").write_text('"a"\n{"prompt": "b", "batch_size": 2}\n')
    for _ in range(2):
        assert main(["--prompt-file", "p.jsonl", "-o", "x.png", *QUICK]) == 0
    assert files(folder) == ["p.jsonl", *(f"x-000{number}.png" for number in range(1, 7))]


def test_the_preview_is_not_the_picture(folder, capsys):
    for name in ("a.png", "./a.png"):
        assert main(["a cat", "-o", "a.png", "--preview", name, "--overwrite", *QUICK]) == 2
        assert "is the picture itself" in capsys.readouterr().err
    assert main(["a cat", "--preview", "sana_1.png", *QUICK]) == 2 and files(folder) == []
    options = ["-b", "2", "--overwrite", "--preview", "a-0001.png"]
    assert main(["a cat", "-o", "a.png", *options, *QUICK]) == 0
    assert files(folder) == ["a-0001.png", "a-0002.png", "a-0003.png"]


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "webp"])
def test_jpeg_and_webp_have_their_record_in_exif(folder, ending):
    prompt = "\u82f9\u679c, an apple"
    assert main([prompt, "-o", f"a.{ending}", "--quality", "80", *QUICK]) == 0
    with Image.open(f"a.{ending}") as picture:
        exif = picture.getexif()
    comment = exif.get_ifd(0x8769)[0x9286]
    assert comment[:8] == b"UNICODE\0"
    assert comment[8:].decode("utf-16-be").startswith(f"{prompt}\nSteps: 1, Sampler: flow_dpm, CFG scale: 3.0, Seed: 1")
    assert json.loads(exif[0x010E])["prompt"] == prompt and exif.endian != "<"


def test_the_quality_decides_the_size(folder):
    sizes = []
    for quality in ("20", "100"):
        assert main(["a cat", "-o", f"{quality}.jpg", "--quality", quality, *QUICK]) == 0
        sizes.append(Path(f"{quality}.jpg").stat().st_size)
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("word", ["long ", "\U0001f34e"])
def test_a_prompt_that_is_too_long_for_exif_is_shortened_there(folder, word):
    record = RECORD | {"prompt": word * 20_000, "negative_prompt": word * 20_000}
    saving.save_picture(Image.new("RGB", (1, 1)), Path("a.jpg"), record)
    stored = json.loads(Image.open("a.jpg").getexif()[0x010E])
    assert 1000 < len(stored["prompt"]) <= 1500 and stored["seed"] == 1

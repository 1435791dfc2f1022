"""WebDataset's tars."""

import io
import json
import tarfile

import pytest
from PIL import Image

from sana_core.errors import InputError
from sana_core.training.data.read import read_data


def png(colour="red", kind="PNG"):
    out = io.BytesIO()
    Image.new("RGB", (40, 24), colour).save(out, kind)
    return out.getvalue()


def write(path, members, form=tarfile.PAX_FORMAT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


MEMBERS = [
    ("0.png", png()),
    ("0.txt", b"a cat"),
    ("in/1.x.JPG", b""),
    ("1.json", b'{"prompt": "a dog"}'),
    ("1.Webp", png("blue", "WEBP")),
    ("sub.d/2.jpeg", png("lime", "JPEG")),
    ("sub.d/2.txt", b"a bird"),
]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_pictures_and_captions_are_grouped_by_key(tmp_path, form):
    data = read_data(write(tmp_path / "x.tar", MEMBERS, form))
    found = [(e.name, e.captions[0][0], e.width, e.load().getpixel((5, 5))) for e in data.examples]
    assert [item[:3] for item in found] == [
        ("x.tar/0", "a cat", 40), ("x.tar/1", "a dog", 40), ("x.tar/sub.d/2", "a bird", 40),
    ]  # fmt: skip
    for (*_, colour), expected in zip(found, ((255, 0, 0), (0, 0, 255), (0, 255, 0))):
        assert max(abs(a - b) for a, b in zip(colour, expected)) < 4
    assert [name for name, _ in data.skipped] == ["x.tar/in/1"]


def test_keys_are_those_of_the_webdataset_package(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    path = write(
        tmp_path / "x.tar", [("0.png", png()), ("a.b/c.d.e.png", png()), ("a.b/c.png", png()), ("c.txt", b"x")]
    )
    keys = {sample["__key__"] for sample in webdataset.WebDataset(str(path), shardshuffle=False)}
    from sana_core.training.data.tars import members

    assert set(members(path, "x.tar", lambda *_: None)) == keys


def test_a_folder_of_tars(tmp_path):
    write(tmp_path / "b.tar", [("0.png", png())])
    write(tmp_path / "in/a.TAR", [("0.png", png())])
    assert [e.name for e in read_data(tmp_path, caption="x").examples] == ["b.tar/0", "in/a.TAR/0"]


def test_condition_pictures(tmp_path):
    path = write(tmp_path / "x.tar", [("0.png", png()), ("0.condition.png", png("white")), ("1.png", png())])
    first, second = read_data(path, caption="x").examples
    assert first.load_condition().getpixel((0, 0)) == (255, 255, 255) and second.condition is None
    (tmp_path / "edges/x.tar").mkdir(parents=True)
    (tmp_path / "edges/x.tar/1.png").write_bytes(png("lime"))
    assert all(e.condition for e in read_data(path, caption="x", conditions=tmp_path / "edges").examples)


def test_captions_and_scores_of_upstream_beside_a_tar(tmp_path):
    path = write(tmp_path / "x.tar", [("0.png", png()), ("0.json", b'{"prompt": "plain"}')])
    (tmp_path / "x_VLM.json").write_text(json.dumps({"0": {"VLM": "by a model"}}))
    (tmp_path / "x_VLM_clip_score.json").write_text(json.dumps({"0": {"VLM": "27.5", "prompt": "26"}}))
    assert sorted(read_data(path).examples[0].captions) == [("by a model", 27.5), ("plain", 26.0)]
    (tmp_path / "x_VLM.json").write_text("{")
    with pytest.raises(InputError, match=r"x_VLM\.json beside it"):
        read_data(path)


def entry(name, kind=tarfile.REGTYPE, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def test_links_and_paths_of_a_hostile_tar_lead_nowhere(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    members = [
        (entry("link.png", tarfile.SYMTYPE, str(secret)), b""),
        (entry("hard.png", tarfile.LNKTYPE, "../secret.png"), b""),
        (entry("fifo.png", tarfile.FIFOTYPE), b""),
        ("../../up.png", png()),
        ("/root.png", png()),
        ("._0.png", png()),
    ]
    (tmp_path / "data").mkdir()
    data = read_data(write(tmp_path / "data/x.tar", members), caption="x")
    assert [e.name for e in data.examples] == ["x.tar/../../up", "x.tar//root"]
    assert all(e.picture.source.path == tmp_path / "data/x.tar" for e in data.examples)
    assert data.skipped == ()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["data", "secret.png", "x.tar"]


def test_a_key_twice_is_left_out(tmp_path):
    data = read_data(
        write(tmp_path / "x.tar", [("0.png", png()), ("0.png", png("blue")), ("1.png", png())]), caption="x"
    )
    assert [e.name for e in data.examples] == ["x.tar/1"]
    assert "it has several .png" in data.skipped[0][1]


def test_a_truncated_tar_gives_what_is_whole(tmp_path):
    path = write(tmp_path / "x.tar", [("0.png", png()), ("1.png", png())])
    content = path.read_bytes()
    path.write_bytes(content[:1600])
    data = read_data(path, caption="x")
    assert [e.name for e in data.examples] == ["x.tar/0"] and data.skipped
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(InputError, match="no whole tar"):
        read_data(path, caption="x")

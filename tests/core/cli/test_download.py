"""Released models by name, with the real huggingface_hub and a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tiny_pipeline
from PIL import Image

from sana_core.cli import download, main, models
from sana_core.config import POSITIONS
from sana_core.presets import RELEASES

hub = pytest.importorskip("huggingface_hub")
NAME = "sana-1.6b"
RELEASE = models.release(NAME)
PARTS = models.parts(RELEASE)
COMMIT = "c" * 40
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    return tiny_pipeline.write_files(tmp_path_factory.mktemp("tiny"))


@dataclass
class Hub:
    """files: by path of the address. cut: answers that end in the middle. ranges: those that were asked for."""

    files: dict[str, bytes]
    cut: int = 0
    too_much: int = 0
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)


@pytest.fixture
def served(tiny_files, monkeypatch):
    state = Hub({f"/{file.repository}/{file.file}": tiny_files[part].read_bytes() for part, file in PARTS.items()})

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body):
            state.requests.append(f"{self.command} {self.path}")
            owner, _, rest = self.path[1:].partition("/resolve/")
            content = state.files.get(f"/{owner}/{rest.partition('/')[2]}")
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked = self.headers.get("Range") if body else None
            start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
            state.ranges += [asked] if asked else []
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{abs(hash(self.path)):x}"')
            self.send_header("X-Linked-Size", str(len(content) + state.too_much))
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body and state.cut:
                state.cut -= 1
                self.wfile.write(content[start : start + len(content) // 2])
            elif body:
                self.wfile.write(content[start:])

        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    getattr(hub, "close_session", lambda: None)()
    yield state
    server.shutdown()
    server.server_close()
    getattr(hub, "close_session", lambda: None)()


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """The command line with that model, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    options = ["-o", "a.png", "--device", "cpu", "--steps", "1", "--size", "32", "--models-dir", "models"]
    return lambda *words: main(["a cat", "--model", NAME, *options, *words])


def whole_files(folder=Path("models")):
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_download_draw_and_draw_again(served, draw, capsys):
    assert draw("--yes") == 0 and Path("a.png").is_file()
    said = capsys.readouterr()
    assert "needs 3 files that are not here" in said.err and "they go to models" in said.err and "\r" not in said.err
    for file in PARTS.values():
        assert f"{file.file_name}, 0.0" in said.err and models.page(file) in said.err
    served.requests.clear()
    assert draw("--json") == 0 and served.requests == []  # all is there, so nothing is asked
    assert json.loads(capsys.readouterr().out)["model"] == Path(RELEASE.file).stem
    assert main(["--list-models", "--models-dir", "models", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["model"] for row in rows if row["here"]] == [NAME] and rows[0]["text_encoder_here"]


def test_without_an_answer_nothing_is_downloaded(served, draw, monkeypatch, capsys):
    assert draw() == 2 and "agree with --yes" in capsys.readouterr().err
    monkeypatch.setattr(download, "is_terminal", lambda stream: True)
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr(sys, "stdin", type("In", (), {"readline": lambda self, answer=answer: answer})())
        assert draw("--quiet") == 2 and "nothing was downloaded" in capsys.readouterr().err
    assert not any(line.startswith("GET") for line in served.requests) and not Path("models").exists()
    monkeypatch.setattr(sys, "stdin", type("In", (), {"readline": lambda self: "y\n"})())
    assert draw("--quiet") == 0


def test_a_connection_that_breaks_is_taken_up_where_it_broke(served, draw, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(hub.constants, "DOWNLOAD_CHUNK_SIZE", 4096)
    served.cut = 1
    assert draw("--yes", "--quiet") == 0
    (asked,) = served.ranges
    assert asked.startswith("bytes=") and asked != "bytes=0-"


def test_a_file_of_another_size_than_stated_is_refused(served, draw, capsys):
    served.too_much = 7
    assert draw("--yes", "--quiet") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("sana: error: Sana_1600M_1024px_BF16.pth did not arrive whole") and whole_files() == []


def test_a_file_that_is_gone_is_one_line(served, draw, capsys):
    del served.files[f"/{PARTS['autoencoder'].repository}/{PARTS['autoencoder'].file}"]
    assert draw("--yes") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "diffusion_pytorch_model.safetensors is not on the hub any more" in said and "mit-han-lab" in said
    assert not any(line.startswith("GET") for line in served.requests)


def test_no_connection_is_one_line(served, draw, monkeypatch, capsys):
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert draw("--yes") == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "cannot be downloaded" in said


def test_without_the_library(draw, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert draw("--yes") == 2
    assert capsys.readouterr().err == f"sana: error: {download.MISSING}\n"


def test_a_disk_without_room(served, draw, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1000))
    assert draw("--yes") == 2 and "--models-dir" in capsys.readouterr().err


def test_files_of_comfyui_are_used_first(served, draw, tiny_files, capsys):
    names = {
        "transformer": f"diffusion_models/{RELEASE.name}.pth",
        "text_encoder": "clip/gemma_2_2b_fp16.safetensors",
        "autoencoder": "vae/diffusion_pytorch_model.safetensors",
    }
    for part, name in names.items():
        path = Path("models") / name
        path.parent.mkdir(parents=True)
        shutil.copy(tiny_files[part], path)
    assert draw("--quiet") == 0 and served.requests == []
    shutil.copy(tiny_files["transformer"], Path("models") / names["autoencoder"])  # the VAE of another model
    assert draw() == 2
    assert "needs 1 files" in capsys.readouterr().err


def test_a_part_of_your_own_is_not_downloaded(served, draw, tiny_files, capsys):
    assert draw("--yes", "--transformer", str(tiny_files["transformer"])) == 0
    assert "needs 2 files" in capsys.readouterr().err
    assert not any("/checkpoints/" in line for line in served.requests)


def test_every_release_has_a_name_and_a_size(capsys, tmp_path):
    assert sorted(models.MODELS.values()) == sorted(release.name for release in RELEASES)
    assert models.release("SANA_1600m_1024PX") is models.release("sana-1.6b-fp16")
    assert main(["--list-models", "--models-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 + 13 + 2 and any(line.startswith("sana-1.5-4.8b") and "18.9" in line for line in lines)


def test_what_files_lack_is_known_of_a_release(served, draw):
    found = {models.unstated(release) for release in RELEASES}
    assert found == {
        ("512", "float16"), ("1024", "float16"), ("1024", "bfloat16"), ("2k", "bfloat16"), ("4k", "bfloat16"),
    }  # fmt: skip
    assert {variant for variant, _ in found} == set(POSITIONS)
    assert draw("--yes", "--quiet") == 0
    with Image.open("a.png") as picture:
        record = json.loads(picture.info["sana"])
    assert (record["variant"], record["trained_precision"]) == ("1024", "bfloat16")


def test_without_a_folder_files_go_to_the_cache_of_the_hub(served, draw, tmp_path, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    options = ["-m", NAME, "--steps", "1", "--size", "32", "--device", "cpu", "--yes", "--quiet"]
    assert main(["a cat", *options]) == 0 and len(whole_files(tmp_path / "cache")) >= 3
    assert not Path("models").exists()


def test_the_cache_is_found_in_a_fresh_program(tmp_path):
    """huggingface_hub imports its parts when they are asked for."""
    code = "from sana_core.cli import download; print(download._folder(None))"
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.stdout == f"{tmp_path}\n", ended.stderr


def test_embedded_models_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--size", "32", "--steps", "1", "--quiet"]
    assert main(["a cat", "-m", "nano-sprint", *options]) == 0 and main(["a cat", "-m", "nano", *options]) == 0

"""Scripts without an editor: progress over the websocket, two clients, interrupts, a library from PyPI."""

import copy
import subprocess
import sys

import numpy as np
import pytest
from e2e.client import ENDS, PREVIEW, PREVIEW_WITH_NODE, WORDS, Client
from PIL import Image
from workflows.installed import ROOT, serve
from workflows.templates import load_prompt

EACH = 25  # prompts of each of two clients
THINGS = ("apple", "penguin", "sunflower", "fox", "tangerine")


@pytest.fixture(scope="module")
def editor(server):
    return Client(server, "a", editor=True)


def graph(prefix, prompt="a red apple", **settings):
    made = copy.deepcopy(load_prompt("SANA-quick-start"))
    node(made, "SaveImage").update(filename_prefix=prefix)
    node(made, "SanaNativeGenerate").update(prompt=prompt, **settings)
    return made


def node(made, kind):
    (inputs,) = [entry["inputs"] for entry in made.values() if entry["class_type"] == kind]
    return inputs


def words(client):
    """Texts on nodes, in order: (node, text)."""
    found = []
    for data in client.binary(WORDS):
        length = int.from_bytes(data[:4], "big")
        found.append((data[4 : 4 + length].decode(), data[4 + length :].decode()))
    return found


def test_fifty_prompts_of_two_clients(server, editor):
    """Each client hears of its own pictures alone, each of them from start to end, and none is mixed up."""
    script = Client(server, "b")
    clients = [editor, script]
    quick = {"sampling": "own", "sampling.steps": 3, "sampling.cfg": 3.0}
    asked = {}
    for seed in range(2 * EACH):
        one, thing = clients[seed % 2], THINGS[seed % len(THINGS)]
        prompt_id = one.queue(graph(f"{one.name}-{seed:02}", f"a {thing}", seed=seed, **quick))
        asked[prompt_id] = (one, seed, thing)
    pictures = set()
    for prompt_id, (one, seed, thing) in asked.items():
        assert one.wait(ENDS, prompt_id) == "execution_success"
        kinds = [kind for kind, _ in one.about(prompt_id)]
        assert kinds[0] == "execution_start" and [kind for kind in kinds if kind in ENDS] == ["execution_success"]
        steps = [data["value"] for data in one.progress(prompt_id) if data["max"] == 3]
        assert steps == sorted(steps) and steps[-1] == 3
        (output,) = [
            data["output"] for kind, data in one.about(prompt_id) if kind == "executed" and data["node"] == "4"
        ]
        (saved,) = output["images"]
        assert saved["filename"].startswith(f"{one.name}-{seed:02}_")
        picture = Image.open(server.base / "output" / saved["filename"])
        assert picture.text["parameters"].startswith(f"a {thing}\n") and f"Seed: {seed}," in picture.text["parameters"]
        pictures.add(picture.tobytes())
    assert len(pictures) == 2 * EACH
    for one in clients:
        assert one.prompts() & set(asked) == {prompt_id for prompt_id, (owner, _, _) in asked.items() if owner is one}
    assert editor.binary(PREVIEW_WITH_NODE) and script.binary(PREVIEW)
    assert words(editor) and not words(script)


def test_words_are_sent_while_text_is_encoded_and_steps_are_taken(server, editor):
    prompt_id = editor.queue(graph("words", "a blue penguin in the snow", seed=71))
    assert editor.wait(ENDS, prompt_id) == "execution_success"
    said = [text for where, text in words(editor) if where == "6:2"]
    assert [text for where, text in words(editor) if where == "6"] == said  # on the subgraph too
    assert any(text.startswith("encoding ") for text in said)
    assert any("tokens encoded in 0." in text for text in said)
    assert "20 steps in 0:" in said[-1]


def test_an_interrupted_prompt_ends_alone(server):
    client = Client(server, "c")
    first = client.queue(graph("stopped", seed=81, sampling="own", **{"sampling.steps": 400, "sampling.cfg": 3.0}))
    second = client.queue(graph("next", seed=82))
    client.wait(("progress",), first)
    server.post("/interrupt", {})
    assert client.wait(ENDS, first) == "execution_interrupted"
    assert client.wait(ENDS, second) == "execution_success"
    assert not list((server.base / "output").glob("stopped*")) and list((server.base / "output").glob("next*"))


def test_a_library_from_pypi_draws(tmp_path):
    """comfy-api-simplified finds nodes by their titles, and takes all that is not JSON for pictures: so without
    previews, as ComfyUI starts by itself.
    """
    library = pytest.importorskip("comfy_api_simplified", reason="pip install comfy-api-simplified")
    workflow = library.ComfyWorkflowWrapper(str(ROOT / "tests" / "workflows" / "prompts" / "SANA-quick-start.json"))
    workflow.set_node_param("SANA Generate", "prompt", "a sunflower")
    workflow.set_node_param("SANA Generate", "seed", 5)
    with serve(tmp_path / "comfyui", options=()) as quiet:
        api = library.ComfyApiWrapper(f"http://127.0.0.1:{quiet.port}/")
        ((name, content),) = api.queue_and_wait_images(workflow, "Save Image").items()
    assert name.startswith("SANA_")
    (tmp_path / "sdk.png").write_bytes(content)
    command = [sys.executable, "-m", "sana_core", "a sunflower", "--seed", "5", "--device", "cpu", "-q"]
    subprocess.run([*command, "-o", tmp_path / "ours.png"], cwd=ROOT, check=True)
    sdk, ours = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("sdk.png", "ours.png"))
    assert np.abs(sdk - ours).max() <= 1

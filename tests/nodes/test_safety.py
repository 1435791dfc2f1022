"""SANA Check Prompt and SANA Prompt Style in the host: the library's probability, a clear refusal, its memory."""

import pytest
import tiny_shield
import torch
from e2e.comfyui import REASON
from safetensors import safe_open
from safetensors.torch import save_file

bridge = pytest.importorskip("sana_pack.nodes.bridge.shield", reason=REASON)
text_encoder = pytest.importorskip("sana_pack.nodes.bridge.text_encoder", reason=REASON)
nodes = pytest.importorskip("sana_pack.nodes.safety", reason=REASON)
safety = pytest.importorskip("sana_pack.sana_core.safety", reason=REASON)
errors = pytest.importorskip("sana_pack.sana_core.errors", reason=REASON)
styles = pytest.importorskip("sana_pack.sana_core.styles", reason=REASON)
management = pytest.importorskip("comfy.model_management", reason=REASON)
comfy_nodes = pytest.importorskip("nodes", reason=REASON)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("shield") / "shield.safetensors"
    spiece = tiny_shield.spiece()
    network = tiny_shield.model(tiny_shield.tokenizer(spiece), final_logit_softcapping=3.0)
    tensors, metadata = tiny_shield.single_file(network, spiece)
    save_file(tensors, path, metadata)
    return path


@pytest.fixture(scope="module")
def shield(path):
    return text_encoder.load_text_encoder(str(path))


@pytest.fixture(scope="module")
def expected(path):
    return dict(zip(tiny_shield.PROMPTS, safety.load_shield(path, device=CPU)(tiny_shield.PROMPTS)))


def check(shield, prompt, threshold=0.2, action="refuse"):
    return nodes.SanaNativeCheckPrompt.execute(shield, prompt, threshold, action).result


@pytest.mark.parametrize("prompt", tiny_shield.PROMPTS)
def test_the_probability_is_the_librarys(shield, expected, prompt):
    passed, probability = check(shield, prompt, 1.0)
    assert passed == prompt and probability == pytest.approx(expected[prompt], abs=1e-4)


def test_clip_set_last_layer_changes_nothing(shield, expected):
    prompt = tiny_shield.PROMPTS[0]
    (other,) = comfy_nodes.CLIPSetLastLayer().set_last_layer(shield, -2)
    assert check(other, prompt, 1.0)[1] == pytest.approx(expected[prompt], abs=1e-4)


def test_a_refusal_says_why(shield):
    prompt = tiny_shield.PROMPTS[4]
    limit = check(shield, prompt, 1.0)[1]
    assert check(shield, prompt, limit)[0] == prompt  # exactly at the threshold it passes
    with pytest.raises(
        errors.RefusedError, match=r"the prompt 'street lamps .*\(probability 0\.\d+\).*Nothing was drawn"
    ):
        check(shield, prompt, limit - 1e-6)


def test_a_replacement_is_said(shield, caplog):
    passed, probability = check(shield, tiny_shield.PROMPTS[4], 0.0, "replace")
    assert passed == safety.HARMLESS and probability > 0.0
    assert '"A red heart." is drawn in place of the prompt \'street lamps' in caplog.text


def test_the_host_loads_it_and_may_unload_it(shield, expected):
    prompt = tiny_shield.PROMPTS[0]
    management.unload_all_models()
    assert check(shield, prompt, 1.0)[1] == pytest.approx(expected[prompt], abs=1e-4)
    assert any(loaded.model is shield.patcher for loaded in management.current_loaded_models)
    management.unload_all_models()
    assert not any(loaded.model is shield.patcher for loaded in management.current_loaded_models)
    assert check(shield, prompt, 1.0)[1] == pytest.approx(expected[prompt], abs=1e-4)


def test_the_folder_of_google(path, expected, tmp_path):
    """Several files with the tokenizer.model beside them: any of the files stands for all."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        metadata = file.metadata()
    (tmp_path / "tokenizer.model").write_bytes(tensors.pop("spiece_model").numpy().tobytes())
    names = sorted(tensors)
    for number, keys in ((1, names[::2]), (2, names[1::2])):
        part = tmp_path / f"model-0000{number}-of-00002.safetensors"
        save_file({key: tensors[key] for key in keys}, part, metadata)
    prompt = tiny_shield.PROMPTS[0]
    found = text_encoder.load_text_encoder(str(tmp_path / "model-00002-of-00002.safetensors"))
    assert check(found, prompt, 1.0)[1] == pytest.approx(expected[prompt], abs=1e-4)


def test_other_models_are_refused(clip):
    with pytest.raises(errors.CheckpointError, match='shield: its tokenizer has no token "Yes"'):
        check(clip, "a red apple")
    for value, said in ((None, "there is no shield"), ("clip", "expected the output of a node")):
        with pytest.raises(errors.InputError, match=said):
            check(value, "a red apple")

    class Other:
        tokenizer = cond_stage_model = object()

    with pytest.raises(errors.InputError, match="shield is a CLIP of another kind"):
        check(Other(), "a red apple")


def test_a_prompt_that_is_too_long(shield):
    with pytest.raises(errors.InputError, match="too long to be checked"):
        check(shield, "street lamps " * 3000)


@pytest.mark.parametrize("style", ["(No style)", "Fantasy art"])
def test_style(style):
    found = nodes.SanaNativeStyle.execute("a cat", ", blurry", style).result
    assert found == styles.styled("a cat", ", blurry", style)


@pytest.mark.parametrize("value", [None, 3, ["a cat"]])
def test_a_prompt_that_is_no_text_is_refused(shield, value):
    """Over a link anything may come."""
    calls = {
        "prompt": (lambda: check(shield, value), lambda: nodes.SanaNativeStyle.execute(value, "", "Manga")),
        "negative_prompt": (lambda: nodes.SanaNativeStyle.execute("a cat", value, "Manga"),),
    }
    for name, tried in calls.items():
        for call in tried:
            with pytest.raises(errors.InputError, match=f"^{name} is .*, expected a text$"):
                call()

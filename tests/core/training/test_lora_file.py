"""The file of a trained LoRA: it does what the training did, says what it is, and is there whole or not at all."""

import json

import pytest
import tiny
import tiny_lora
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sana_core.errors import CheckpointError, InputError
from sana_core.lora import apply_lora, load_lora
from sana_core.training import lora_file
from sana_core.training.lora_file import load_trained, save_lora
from sana_core.training.lora_layers import ATTENTION, FEED_FORWARD, attach_lora

LATENT = torch.randn(1, 32, 2, 2, generator=torch.Generator().manual_seed(0))
CONTEXT = torch.randn(1, 3, 96, generator=torch.Generator().manual_seed(1))
TIME = torch.tensor([400.0])
ALL = (*ATTENTION, *FEED_FORWARD)


def draw(model):
    return model(LATENT, TIME, CONTEXT)


def trained(model, **settings):
    return tiny.randomized(attach_lora(model, **{"rank": 4, "alpha": 6, "seed": 0, "targets": ALL, **settings}))


def linear(model):
    return [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)]


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("changes", [{}, {"qk_norm": True}, {"qk_norm": True, "guidance_embed": True}])
def test_the_file_does_what_the_training_did(tmp_path, changes, dora):
    model, other = tiny.transformer(**changes), tiny.transformer(**changes)
    more = {"guidance": torch.tensor([4.5])} if "guidance_embed" in changes else {}
    plain = model(LATENT, TIME, CONTEXT, **more)
    save_lora(tmp_path / "lora.safetensors", trained(model, dora=dora), base="SANA")
    report = apply_lora(other, load_lora(tmp_path / "lora.safetensors"))
    assert len(report.matched) == 20 and not report.unmatched
    expected = model(LATENT, TIME, CONTEXT, **more)
    torch.testing.assert_close(other(LATENT, TIME, CONTEXT, **more), expected, atol=1e-5, rtol=1e-4)
    assert (expected - plain).abs().max() > 1e-2


def test_training_goes_on_from_the_file(tmp_path):
    model, other = tiny.transformer(), tiny.transformer()
    save_lora(tmp_path / "lora.safetensors", trained(model, dora=True), base="SANA")
    start = load_trained(tmp_path / "lora.safetensors")
    attach_lora(other, rank=4, alpha=1, seed=5, targets=ALL, dora=True, start=start)
    torch.testing.assert_close(draw(other), draw(model), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dialect", ["diffusers", "peft", "peft in diffusers", "bare", "comfyui", "onetrainer dotted"])
def test_training_goes_on_from_files_of_other_programs(tmp_path, dialect):
    other, model = tiny.transformer(), tiny.transformer()
    factors = {name: pair for name, pair in tiny_lora.factors(model).items() if name in linear(model)}
    tensors = tiny_lora.DIALECTS[dialect](factors)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "lora.safetensors")
    start = load_trained(tmp_path / "lora.safetensors")
    attach_lora(model, rank=tiny_lora.RANK, seed=5, targets=list(factors), start=start)
    apply_lora(other, load_lora(tmp_path / "lora.safetensors"))
    torch.testing.assert_close(draw(model), draw(other), atol=1e-5, rtol=1e-4)


def test_kinds_that_are_not_trained_here_do_not_go_on(tmp_path):
    key = "transformer.transformer_blocks.0.attn1.to_q"
    whole = {f"{key}.diff": torch.ones(224, 224)}
    factors = {f"{key}.lora_A.weight": torch.ones(4, 224), f"{key}.lora_B.weight": torch.ones(224, 4)}
    for tensors, said in ((whole, "is a full difference"), ({**factors, "x": torch.ones(1)}, "more than a LoRA")):
        save_file(tensors, tmp_path / "lora.safetensors")
        with pytest.raises(CheckpointError, match=said):
            load_trained(tmp_path / "lora.safetensors")


def test_it_says_what_it_is(tmp_path):
    said = {"ss_steps": "120", "ss_tag_frequency": '{"cats": {"a cat": 3}}', "modelspec.trigger_phrase": "zorble"}
    lora = trained(tiny.transformer(depth=1), dora=True, targets=ATTENTION)
    save_lora(tmp_path / "zorble.safetensors", lora, base="SANA 1.6B 1024", trained=said)
    found = metadata(tmp_path / "zorble.safetensors")
    assert {key: found[key] for key in said} == said
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == ("4", "6")
    assert (found["ss_base_model_version"], found["modelspec.title"]) == ("SANA 1.6B 1024", "zorble")
    assert found["modelspec.date"].startswith("20") and found["format"] == "pt"
    assert json.loads(found["lora_adapter_metadata"]) == {
        "transformer.peft_type": "LORA", "transformer.r": 4, "transformer.lora_alpha": 4,
        "transformer.target_modules": list(ATTENTION), "transformer.use_dora": True,
    }  # fmt: skip
    save_lora(tmp_path / "b.safetensors", lora, base="SANA", trained={"modelspec.title": "Z", "modelspec.date": "D"})
    again = metadata(tmp_path / "b.safetensors")
    assert (again["modelspec.title"], again["modelspec.date"]) == ("Z", "D")


def test_number_types(tmp_path):
    lora = trained(tiny.transformer(depth=1))
    save_lora(tmp_path / "lora.safetensors", lora, base="SANA", dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "lora.safetensors")
    assert all(torch.equal(tensors[key], tensor.bfloat16()) for key, tensor in lora.tensors().items())


def test_it_is_there_whole_or_as_before(tmp_path, monkeypatch):
    path, lora = tmp_path / "lora.safetensors", trained(tiny.transformer(depth=1))
    save_lora(path, lora, base="SANA")
    before = path.read_bytes()
    with pytest.raises(InputError, match="is there already"):
        save_lora(path, lora, base="another")
    add = lora_file.SafetensorsWriter.add

    def full(writer, key, *rest):
        if "to_v" in key:
            raise OSError(28, "No space left on device")
        add(writer, key, *rest)

    monkeypatch.setattr(lora_file.SafetensorsWriter, "add", full)
    with pytest.raises(InputError, match="no space is left"):
        save_lora(path, lora, base="another", overwrite=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    save_lora(path, lora, base="another", overwrite=True)
    assert metadata(path)["ss_base_model_version"] == "another"
    with pytest.raises(InputError, match=r"a LoRA is a \.safetensors file"):
        save_lora(tmp_path / "lora.pt", lora, base="SANA")

"""Odd LoRA files, each of which gives one clear error, soon; and what tools write beside or around a LoRA."""

import json
import time

import pytest
import tiny
import tiny_lora
import torch
from safetensors.torch import save_file
from tiny_lora import ALPHA, RANK

from sana_core.errors import CheckpointError, InputError
from sana_core.lora import apply_lora, load_lora

TO_Q, BIASED = "transformer_blocks.0.attn1.to_q", "transformer_blocks.0.attn2.to_q"
DOWN, UP = torch.full((4, 224), 0.01), torch.full((224, 4), 0.02)
PLAIN = {f"transformer.{TO_Q}.lora_A.weight": DOWN, f"transformer.{TO_Q}.lora_B.weight": UP}


@pytest.fixture
def lora(tmp_path):
    """A function that loads a LoRA of these tensors and this metadata from a file."""

    def load(tensors, stated=None, name="lora.safetensors"):
        stated = stated if stated is None or isinstance(stated, str) else json.dumps(stated)
        metadata = None if stated is None else {"lora_adapter_metadata": stated}
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, tmp_path / name, metadata)
        return load_lora(tmp_path / name)

    return load


def assert_one_line(error, begun):
    assert "\n" not in str(error.value) and "lora.safetensors" in str(error.value)
    assert time.process_time() - begun < 4  # seconds; far below one on a processor that has nothing else to do


STATED = {
    "no JSON": ("{", "is not readable JSON"),
    "a list": ("[1]", "is a JSON list, expected an object"),
    "nested lists": ("[" * 100_000 + "]" * 100_000, "is not readable JSON"),
    "nested objects": ('{"a":' * 100_000 + "1" + "}" * 100_000, "is not readable JSON"),
    "alpha a word": ({"lora_alpha": "x"}, "alpha of its LoRA configuration is 'x', expected a number"),
    "alpha a list": ({"lora_alpha": [1]}, "alpha of its LoRA configuration is a list, expected a number"),
    "alpha a deep list": ('{"lora_alpha":' + "[" * 900 + "]" * 900 + "}", "is a list, expected a number"),
    "alpha a truth": ({"lora_alpha": True}, "is True, expected a number"),
    "alpha endless": ('{"lora_alpha": 1e999}', "is inf, expected a number"),
    "alpha not a number": ('{"lora_alpha": NaN}', "is nan, expected a number"),
    "alpha too long": ('{"lora_alpha": ' + "9" * 5000 + "}", "expected a number|is not readable JSON"),
    "r a word": ({"r": "many"}, "r of its LoRA configuration is 'many'"),
    "r negative": ({"r": -4}, "r of its LoRA configuration is -4, expected a rank"),
    "alpha_pattern a list": ({"alpha_pattern": [1]}, "alpha_pattern of its LoRA configuration is a list, expected an"),
    "rank_pattern a word": ({"rank_pattern": "to_q"}, "rank_pattern of its LoRA configuration is a str, expected an"),
    "alpha_pattern of words": ({"alpha_pattern": {"to_q": "x"}}, "alpha_pattern of its LoRA configuration is 'x'"),
    "rank_pattern negative": ({"rank_pattern": {"to_q": -1}}, "rank_pattern of its LoRA configuration is -1"),
    "open group": ({"alpha_pattern": {"(": 1}}, "alpha_pattern of its LoRA configuration is not usable"),
    "back reference": ({"rank_pattern": {r"(a)\1": 1}}, "rank_pattern of its LoRA configuration is not usable"),
    "long pattern": ({"alpha_pattern": {"a" * 10_000: 1}}, "10000 characters, at most 500"),
    "quantised LoRA": ({"use_qalora": True}, "a PEFT adapter of type LORA with use_qalora, expected LoRA, DoRA,"),
    "another type": ({"peft_type": "OFT"}, "a PEFT adapter of type OFT, expected LoRA, DoRA, AdaLoRA, LoHa or LoKr"),
    "a type that is no word": ({"peft_type": [[]]}, "a PEFT adapter of type list, expected LoRA"),
}  # fmt: skip


@pytest.mark.parametrize("prefix", ["", "transformer.", "text_encoder."])
@pytest.mark.parametrize("case", STATED)
def test_odd_configurations(lora, case, prefix):
    stated, said = STATED[case]
    if isinstance(stated, dict):
        stated = {prefix + key: value for key, value in stated.items()}
    begun = time.process_time()
    with pytest.raises(CheckpointError, match=said) as error:
        lora(PLAIN, stated)
    assert_one_line(error, begun)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(.*)*(.*)*(.*)*b", "((a*)*)*" * 20 + "b"])
def test_hostile_patterns_do_not_hang(lora, pattern):
    begun = time.process_time()
    names = [f"transformer.{'a' * 400}{index}" for index in range(300)]
    tensors = {f"{name}.lora_{d}.weight": torch.zeros(1, 1) for name in names for d in "AB"}
    try:
        lora(tensors, {"alpha_pattern": {pattern: 1}, "rank_pattern": {pattern: 1}})
    except CheckpointError as error:
        assert "too long" in str(error)
    assert time.process_time() - begun < 4  # seconds


@pytest.mark.parametrize("stated", [
    {"lora_alpha": None, "alpha_pattern": None, "rank_pattern": None, "r": None, "peft_type": None, "use_rslora": None},
    {"lora_alpha": "8", "r": "4"}, {"lora_alpha": 8.0, "r": 4.0}, {}, {"alpha_pattern": {}, "rank_pattern": {}},
])  # fmt: skip
def test_configurations_that_are_usable(lora, stated):
    (factors,) = lora(PLAIN, stated).modules.values()
    assert factors.scale == (2.0 if stated.get("lora_alpha") else 1.0)


def replaced(**changes):
    """The plain LoRA with other tensors by the end of their keys."""
    changed = {f"transformer.{TO_Q}.{end.replace('__', '.')}": tensor for end, tensor in changes.items()}
    return {key: tensor for key, tensor in {**PLAIN, **changed}.items() if tensor is not None}


TENSORS = {
    "alpha of two numbers": (replaced(alpha=torch.ones(2)), "alpha is a tensor of shape .2,.* expected a number"),
    "alpha of no number": (replaced(alpha=torch.ones(0)), "alpha is a tensor of shape .0,.* expected a number"),
    "alpha not a number": (replaced(alpha=torch.tensor(float("nan"))), "alpha is a tensor .*, expected a number"),
    "alpha endless": (replaced(alpha=torch.tensor(float("inf"))), "alpha is a tensor .*, expected a number"),
    "down of no dimension": (replaced(lora_A__weight=torch.tensor(1.0)), "lora_A.weight is a tensor of shape \\(\\)"),
    "down of one dimension": (replaced(lora_A__weight=torch.ones(4)), "lora_A.weight is a tensor of shape .4,.*"),
    "up of no dimension": (replaced(lora_B__weight=torch.tensor(1.0)), "lora_B.weight is a tensor of shape \\(\\)"),
    "integers": (replaced(lora_A__weight=torch.ones(4, 224, dtype=torch.int8)), "type torch.int8, expected 2 or more"),
    "bias of no dimension": (replaced(lora_B__bias=torch.tensor(1.0)), "lora_B.bias is a tensor of shape"),
    "lengths of no dimension": (replaced(dora_scale=torch.tensor(1.0)), "dora_scale is a tensor of shape"),
    "AdaLoRA of another rank": (replaced(lora_E=torch.ones(3, 1)), "lora_E has shape .3, 1., expected .4, 1."),
    "two for one": (replaced(lora_down__weight=DOWN), "are the same tensor of one module"),
    "two adapters": (
        {**replaced(lora_A__style__weight=DOWN, lora_B__other__weight=UP)}, "holds several adapters .other, style."
    ),
    "rank 0 alone": (replaced(lora_A__weight=torch.ones(0, 224), lora_B__weight=torch.ones(224, 0)), "have rank 0"),
    "rank 0 and alpha": (
        replaced(lora_A__weight=torch.ones(0, 224), lora_B__weight=torch.ones(224, 0), alpha=torch.tensor(4.0)),
        "all 1 modules of this LoRA have rank 0: it changes nothing",
    ),
    "biases alone": ({f"base_model.model.{BIASED}.bias": torch.ones(224)}, "expected a LoRA, found"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_odd_tensors(lora, case):
    tensors, said = TENSORS[case]
    begun = time.process_time()
    with pytest.raises(CheckpointError, match=said) as error:
        lora(tensors)
    assert_one_line(error, begun)


MISMATCHED = {
    "a bias of another size": ({f"transformer.{BIASED}.diff_b": torch.ones(3)}, r"\(bias\) is \(3,\), the weight here"),
    "a bias in two dimensions": ({f"transformer.{BIASED}.diff_b": torch.ones(1, 224)}, r"\(bias\) is \(1, 224\)"),
    "a bias that is not there": (replaced(lora_B__bias=torch.ones(224)), "bias of .*to_q, which has none"),
    "an empty difference": ({f"transformer.{TO_Q}.diff": torch.ones(0, 224)}, r"is \(0, 224\), the weight here"),
    "factors too many": (
        {f"transformer.{TO_Q}.lokr_w1": torch.ones(1, 1, 1), f"transformer.{TO_Q}.lokr_w2": torch.ones(224, 224)},
        "to_q is|do not make a change",
    ),
    "lengths of another size": (replaced(dora_scale=torch.ones(7, 1)), "do not make a change of a .224, 224. weight"),
    "a block of a number without end": (
        {**PLAIN, f"transformer.transformer_blocks.{'9' * 5000}.x.diff": torch.ones(1)}, None
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISMATCHED)
def test_tensors_that_do_not_fit(lora, case):
    tensors, said = MISMATCHED[case]
    model = tiny.transformer()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    read = lora(tensors)
    if said is None:
        assert len(apply_lora(model, read).unmatched) == 1
        return
    with pytest.raises(CheckpointError, match=said) as error:
        apply_lora(model, read)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("alpha", [None, 4.0])
@pytest.mark.parametrize("stated", [None, {"lora_alpha": 4, "r": 4}])
def test_modules_of_rank_0_change_nothing(lora, alpha, stated):
    """As pruning leaves them."""
    model = tiny.transformer()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    empty = {f"{BIASED}.lora_A.weight": torch.ones(0, 224), f"{BIASED}.lora_B.weight": torch.ones(224, 0)}
    alphas = {} if alpha is None else {f"{BIASED}.alpha": torch.tensor(alpha)}
    report = apply_lora(model, lora({**PLAIN, **empty, **alphas}, stated))
    assert report.ranks == {TO_Q: 4, BIASED: 0} and report.unmatched == ()
    changed = [key for key, tensor in model.state_dict().items() if not torch.equal(before[key], tensor)]
    assert changed == [f"{TO_Q}.weight"]


# --- networks


def expected(strength=1.0):
    """The weights of a fresh network with the LoRA of `tensors_for`."""
    model = tiny.transformer()
    for name, delta in tiny_lora.deltas(tiny_lora.factors(model)).items():
        weight = model.get_submodule(name).weight.data
        weight += strength * delta.reshape(weight.shape)
    return model.state_dict()


def tensors_for(model):
    return tiny_lora.kohya(tiny_lora.factors(model))


class Wrapper(torch.nn.Module):
    """Holds a module as data parallelism, FSDP and checkpointing do."""

    def __init__(self, name, module):
        super().__init__()
        self.add_module(name, module)


def compiled_blocks(model):
    for index, block in enumerate(model.transformer_blocks):
        model.transformer_blocks[index] = torch.compile(block, backend="eager")
    return model


WRAPPED = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "compiled twice": lambda model: Wrapper("_orig_mod", torch.compile(model, backend="eager")),
    "compiled blocks": compiled_blocks,
    "data parallel": lambda model: torch.nn.DataParallel(model),
    "sharded": lambda model: Wrapper("_fsdp_wrapped_module", Wrapper("_checkpoint_wrapped_module", model)),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrapped_networks(lora, wrapper):
    plain = tiny.transformer()
    read = lora(tensors_for(plain))
    report = apply_lora(WRAPPED[wrapper](plain), read, 0.5)
    assert len(report.matched) == 24 and report.unmatched == ()
    weights = [
        tensor for _, tensor in sorted(plain.named_parameters(), key=lambda pair: pair[0].replace("_orig_mod.", ""))
    ]
    wanted = expected(0.5)
    for tensor, name in zip(weights, sorted(wanted)):
        torch.testing.assert_close(tensor.data, wanted[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module."])
def test_wrappers_in_kohya_names(lora, wrapper):
    """kohya puts "_" for "." in the names that the network has while it is trained."""
    model = tiny.transformer()
    wrapped = {f"{wrapper}{name}": pair for name, pair in tiny_lora.factors(model).items()}
    flat = {key.replace("module_orig_mod_", "_orig_mod_"): value for key, value in tiny_lora.kohya(wrapped).items()}
    if wrapper.startswith("module."):  # "module" cannot be told from a module's name there
        flat = tiny_lora.kohya(wrapped, "transformer.")
    assert len(apply_lora(model, lora(flat)).matched) == 24


@pytest.mark.parametrize("columns", [224, 112])  # whole, or two numbers in one byte
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn])
def test_quantised_weights_are_refused(lora, dtype, columns):
    model = tiny.transformer()
    packed = torch.nn.Parameter(torch.zeros(224, columns).to(dtype), requires_grad=False)
    model.get_submodule(TO_Q).weight = packed
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    read = lora(tensors_for(tiny.transformer()))
    with pytest.raises(InputError, match=rf"cast to 8 bits \({TO_Q}\.weight is torch\..*\), to which a LoRA"):
        apply_lora(model, read)
    for key, tensor in model.state_dict().items():
        assert torch.equal(before[key].view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("kind", ["kohya", "peft"])
def test_defaults_of_pytorch_change_nothing(lora, kind, tmp_path):
    model = tiny.transformer()
    factors = tiny_lora.factors(model)
    stated = None if kind == "kohya" else tiny_lora.config()
    lora(tiny_lora.kohya(factors) if kind == "kohya" else tiny_lora.peft(factors, folded=False), stated)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        apply_lora(model, load_lora(tmp_path / "lora.safetensors"))
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for name, tensor in expected().items():
        found = model.state_dict()[name]
        assert (found.dtype, found.device.type) == (torch.float32, "cpu")
        torch.testing.assert_close(found, tensor, rtol=0, atol=1e-5)


# --- PEFT's folders


@pytest.mark.parametrize("named", ["", "adapter_model.bin"])
def test_the_older_form_of_peft(tmp_path, named):
    model = tiny.transformer()
    tensors = tiny_lora.peft(tiny_lora.factors(model), "base_model.model.", folded=False)
    torch.save(tensors, tmp_path / "adapter_model.bin")
    torch.save({"state": {}}, tmp_path / "optimizer.bin")
    (tmp_path / "adapter_config.json").write_text(json.dumps(tiny_lora.config()), encoding="utf-8-sig")
    report = apply_lora(model, load_lora(tmp_path / named))
    assert set(report.alphas.values()) == {ALPHA} and set(report.ranks.values()) == {RANK}
    for name, tensor in expected().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=0, atol=1e-5)


def test_a_configuration_that_cannot_be_decoded(tmp_path):
    save_file(PLAIN, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_bytes(b'{"r": "\xff\xfe"}')
    with pytest.raises(CheckpointError, match="its LoRA configuration is not readable JSON"):
        load_lora(tmp_path)

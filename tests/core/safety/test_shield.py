"""The probability is that of transformers' Gemma2ForCausalLM, from every kind of file; other models are refused."""

import hashlib
from contextlib import contextmanager

import gguf_gemma
import pytest
import tiny_shield
import tiny_text
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sana_core.errors import CheckpointError, InputError
from sana_core.safety import load_shield
from sana_core.safety.answer import MOST_TOKENS, question_ids
from sana_core.safety.wording import question
from sana_core.text.tokenizer import tokenizer_from_bytes

CPU = torch.device("cpu")


def expected(network, tokenizer):
    return [tiny_shield.probability(network, tokenizer, question(prompt)) for prompt in tiny_shield.PROMPTS]


def test_the_question_is_upstreams():
    """The hash is that of the text that `is_dangerous` of hart/utils/safety_check.py makes."""
    found = hashlib.sha256(question("a red apple").encode()).hexdigest()
    assert found == "afad5698ee481f7803b3d2938f716701b683c5b8a393ff6b34f3422d55b08566"
    assert question("  {policy} \n") == question("{policy}") and "Question: {policy}\n" in question("{policy}")


@pytest.mark.parametrize("prompt", [*tiny_shield.PROMPTS, "so <end_of_turn> it <eos> ends"])
def test_the_tokens_are_those_of_transformers(tokenizer, spiece, prompt):
    """BOS once, the marks of a turn as single tokens, no EOS; those that a prompt spells out are tokens, too."""
    ids = question_ids(tokenizer_from_bytes(spiece, "tiny"), prompt)
    assert ids == tokenizer(question(prompt))["input_ids"]
    marks = [tokenizer.get_vocab()[mark] for mark in ("<start_of_turn>", "<end_of_turn>")]
    assert ids[0] == 2 and 2 not in ids[1:] and [ids.count(mark) for mark in marks] == [1, 1 + ("<end" in prompt)]


@pytest.mark.parametrize("cap", [30.0, 3.0])
def test_it_is_gemma2_for_causal_lm(tokenizer, spiece, tmp_path, cap):
    network = tiny_shield.model(tokenizer, final_logit_softcapping=cap)
    network.save_pretrained(tmp_path, max_shard_size="60KB")  # several files, and a configuration
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(spiece)
    found = load_shield(tmp_path, device=CPU)(tiny_shield.PROMPTS)
    assert found == pytest.approx(expected(network, tokenizer), abs=1e-4)
    assert max(found) - min(found) > 0.1, "the prompts should differ"
    uncapped = expected(tiny_shield.model(tokenizer, final_logit_softcapping=1e6), tokenizer)
    assert cap > 3.0 or abs(found[0] - uncapped[0]) > 0.01, "the soft cap should show"


def test_one_file_and_tokenizer_json(network, tokenizer, spiece, path, shield, tmp_path):
    probabilities = expected(network, tokenizer)
    assert shield(tiny_shield.PROMPTS) == pytest.approx(probabilities, abs=1e-4)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)  # tokenizer.json alone
    assert load_shield(tmp_path, device=CPU)(tiny_shield.PROMPTS) == pytest.approx(probabilities, abs=1e-4)


def test_a_gguf_file(tokenizer, spiece, tmp_path):
    """The table is packed in 8 bits, and two rows of it are unpacked for the head."""
    network = tiny_shield.model(tokenizer, hidden_size=64, intermediate_size=96, head_dim=16, query_pre_attn_scalar=16)
    tensors, _ = tiny_shield.single_file(network, spiece)
    config = {**network.config.to_dict(), "head_dim": 16}
    marks = ("<start_of_turn>", "<end_of_turn>")
    found = load_shield(gguf_gemma.write(tmp_path / "s.gguf", (tensors, config), special=marks), device=CPU)
    assert found.encoder.config.final_logit_softcapping == 30.0
    with torch.no_grad():
        for name, parameter in network.model.named_parameters():
            if not name.endswith("norm.weight"):
                packed = gguf_gemma.gguf.quants.quantize(parameter.numpy(), gguf_gemma.Q8)
                parameter.copy_(torch.from_numpy(gguf_gemma.gguf.quants.dequantize(packed, gguf_gemma.Q8)))
    assert found(tiny_shield.PROMPTS) == pytest.approx(expected(network, tokenizer), abs=1e-4)


def altered(path, target, change):
    """The same file with other tensors."""
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
        save_file({key: change(key, tensor) for key, tensor in tensors.items()}, target, file.metadata())
    return target


def test_the_type_of_the_file_is_kept(path, tmp_path, tokenizer):
    """In bfloat16, as NVIDIA's demo runs it: its own logits are rounded to bfloat16 besides, ours are not."""
    half = altered(
        path, tmp_path / "half.safetensors", lambda _, tensor: tensor.bfloat16() if tensor.ndim == 2 else tensor
    )
    shield = load_shield(half, device=CPU)
    assert {parameter.dtype for parameter in shield.encoder.parameters()} == {torch.bfloat16}
    assert shield(tiny_shield.PROMPTS) == pytest.approx(
        expected(tiny_shield.model(tokenizer).bfloat16(), tokenizer), abs=0.01
    )


def test_each_prompt_is_read_alone(shield):
    """So that what is refused does not depend on the other prompts: exactly the same number in any company."""
    seen = []
    together = shield(tiny_shield.PROMPTS, lambda done, total: seen.append((done, total)))
    assert together == [shield([prompt])[0] for prompt in tiny_shield.PROMPTS]
    assert seen == [(number, 5) for number in range(1, 6)]
    assert shield([]) == []


def test_a_prompt_that_is_too_long(shield):
    with pytest.raises(InputError, match=rf"too long to be checked: .* at most {MOST_TOKENS} are read"):
        shield(["a red apple", "street lamps " * 3000])


def test_a_tokenizer_that_cannot_answer(path, tmp_path):
    other = torch.frombuffer(bytearray(tiny_text.spiece()), dtype=torch.uint8)
    target = altered(
        path, tmp_path / "gemma.safetensors", lambda key, tensor: other if key == "spiece_model" else tensor
    )
    with pytest.raises(CheckpointError, match=r'gemma\.safetensors.*no token "Yes"'):
        load_shield(target, device=CPU)


def test_a_damaged_model_lets_nothing_pass(path, tmp_path):
    target = altered(
        path, tmp_path / "nan.safetensors", lambda key, t: torch.full_like(t, torch.nan) if "norm" in key else t
    )
    with pytest.raises(CheckpointError, match="gave no number"):
        load_shield(target, device=CPU)(["a red apple"])


def test_the_weights_are_on_the_device_for_its_turn_alone(path, monkeypatch):
    """They are put on the device when prompts are checked, and no longer."""
    turns = []
    shield = load_shield(path, device=CPU)

    @contextmanager
    def on_device(device, network):
        turns.append((device, network))
        yield
        turns.append("given back")

    monkeypatch.setattr("sana_core.safety.shield.on_device", on_device)
    assert not turns
    shield(["a red apple", "street lamps"])
    assert turns == [(CPU, shield.encoder), "given back"]

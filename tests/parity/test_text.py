"""The text encoder against diffusers' Sana pipeline and transformers' Gemma-2, float32.

diffusers lower-cases and strips every prompt; `encode` does not, so the tests do it.
"""

import inspect
import json
import math

import pytest
import tiny_text
import torch
from agreement import assert_agree
from safetensors.torch import load_file, save_file

from sana_core.config import TextConfig
from sana_core.text.gemma import GemmaTextEncoder
from sana_core.text.instruction import INSTRUCTIONS
from sana_core.text.load import load_text_encoder
from sana_core.text.tokenizer import JsonTokenizer, tokenizer_from_bytes

TOLERANCE = 1e-3
HEADS = {
    "num_attention_heads": "4",
    "num_key_value_heads": "2",
    "head_dim": "32",
}  # of the oracle's Gemma, whose shapes do not tell them
WORDING = {"chi": "diffusers", "nochi": None, "chi_nvlabs": "default"}


# ---------------------------------------------------------------------------------------- the oracle


@pytest.fixture(scope="module")
def cases(oracle):
    """Name and description of every text case; the descriptions stand in the JSON file beside the reference."""
    described = json.loads((oracle.fixtures.parent / "ref.json").read_text())["cases"]
    return {name: case for name, case in described.items() if name.startswith("text/") and "prompt" in case}


@pytest.fixture(scope="module")
def single_file(oracle, tmp_path_factory):
    """ComfyUI's layout, with what its shapes do not tell in the metadata."""
    path = tmp_path_factory.mktemp("text") / "gemma.safetensors"
    save_file(load_file(oracle.fixtures / "text" / "gemma2_comfy.safetensors"), path, HEADS)
    return path


def load(oracle, single_file, layout):
    folder = oracle.fixtures / "pipelines" / "sana"
    if layout == "single file":
        return load_text_encoder(single_file)
    if layout == "folder":
        return load_text_encoder(folder / "text_encoder")
    encoder = load_text_encoder(single_file, tokenizer=folder / "tokenizer" / "tokenizer.json")
    assert isinstance(encoder.tokenizer, JsonTokenizer)
    return encoder


@pytest.mark.parametrize("layout", ["single file", "folder", "own tokenizer"])
def test_oracle(oracle, cases, single_file, layout):
    encoder = load(oracle, single_file, layout)
    assert len(cases) == 15
    for name, case in cases.items():
        prompt, instruction = case["prompt"].lower().strip(), WORDING[name.split("_", 1)[1]]
        tokens = encoder.tokenize([prompt], instruction=instruction)[0]
        embeddings, mask = encoder.encode([prompt], instruction=instruction)
        assert tokens.ids == oracle.reference[f"{name}/input_ids"].tolist(), name
        assert mask.all() and mask.sum() == oracle.reference[f"{name}/mask300"].sum(), name
        assert_agree(embeddings[0], oracle.reference[f"{name}/embeds_valid"], TOLERANCE)
    hidden = encoder(oracle.reference["text/layers/in_ids"])
    assert_agree(hidden, oracle.reference["text/layers/last_hidden_state"], TOLERANCE)


def test_oracle_in_one_batch(oracle, cases, single_file):
    encoder = load_text_encoder(single_file)
    for suffix, instruction in WORDING.items():
        names = [name for name in cases if name.split("_", 1)[1] == suffix]
        prompts = [cases[name]["prompt"].lower().strip() for name in names]
        embeddings, mask = encoder.encode(prompts, instruction=instruction)
        for name, rows, kept in zip(names, embeddings, mask):
            assert_agree(rows[kept], oracle.reference[f"{name}/embeds_valid"], TOLERANCE)


def test_oracle_wordings(cases):
    for name, case in cases.items():
        instruction = WORDING[name.split("_", 1)[1]]
        lines = case["complex_human_instruction"]
        assert lines is instruction is None or "\n".join(lines) == INSTRUCTIONS[instruction]


# ------------------------------------------------------------------------------------ without the oracle


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers", reason="diffusers is the reference these tests compare with")


def instruction_of(diffusers):
    return inspect.signature(diffusers.SanaPipeline.__call__).parameters["complex_human_instruction"].default


def pair(diffusers, seed):
    """Our encoder and diffusers' pipeline around the same random Gemma-2, each with its own tokenizer and its own
    construction.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

    config = tiny_text.config(hidden_size=96, head_dim=16, query_pre_attn_scalar=24)
    weights, spiece = tiny_text.state_dict(config, seed), tiny_text.spiece()
    fast = tiny_text.hugging_face_tokenizer(spiece)
    fast.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )
    settings = {name: getattr(config, name) for name in TextConfig.__dataclass_fields__}
    # eager has the logit soft cap in every version of transformers; the default of older ones leaves it out
    text_encoder = Gemma2Model(Gemma2Config(**settings, attn_implementation="eager")).eval()
    text_encoder.load_state_dict(weights)
    pipeline = diffusers.SanaPipeline(tokenizer, text_encoder, vae=None, transformer=None, scheduler=None)
    return GemmaTextEncoder(config, tokenizer_from_bytes(spiece, "tiny"), weights), pipeline


PROMPTS = [
    "A red APPLE on a wooden table",
    "",
    "caf\u00e9 \u732b <b>bold</b>, 42  pixels\n\nend",
    "highly detailed, " * 120,
]


@pytest.mark.parametrize("max_length", [300, 20])
@pytest.mark.parametrize("seed", [1, 2])
@torch.no_grad()
def test_a_random_model(diffusers, seed, max_length):
    encoder, pipeline = pair(diffusers, seed)
    prompts = [prompt.lower().strip() for prompt in PROMPTS]
    lines = instruction_of(diffusers)
    nvlabs = [line.replace("'Enhanced prompt'", '"Enhanced prompt"') for line in lines]
    for instruction, theirs in (
        (None, None),
        ("diffusers", lines),
        ("default", nvlabs),
        ("Draw this:\nNow ", ["Draw this:", "Now "]),
    ):
        expected, expected_mask, _, _ = pipeline.encode_prompt(
            PROMPTS, False, device=torch.device("cpu"), complex_human_instruction=theirs, max_sequence_length=max_length
        )
        embeddings, mask = encoder.encode(prompts, instruction=instruction, max_length=max_length)
        assert torch.equal(mask, expected_mask[:, : mask.shape[1]].bool())
        assert not expected_mask[:, mask.shape[1] :].any()
        assert_agree(embeddings[mask], expected[:, : mask.shape[1]][mask], TOLERANCE)


def test_the_instruction_is_diffusers_default(diffusers):
    assert INSTRUCTIONS["diffusers"] == "\n".join(instruction_of(diffusers))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_shapes_of_gemma_2_2b(tmp_path, prefix):
    """transformers' own defaults are Gemma-2-2B: a file with exactly its keys and shapes passes on the meta device."""
    from transformers import Gemma2Config, Gemma2Model

    with torch.device("meta"):
        shapes = {prefix + key: list(tensor.shape) for key, tensor in Gemma2Model(Gemma2Config()).state_dict().items()}
    header, offset = {}, 0
    for key, shape in shapes.items():
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + 2 * math.prod(shape)]}
        offset += 2 * math.prod(shape)
    content = json.dumps(header).encode()
    with (tmp_path / "gemma.safetensors").open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        file.truncate(8 + len(content) + offset)  # no byte of the five gigabytes is on the disk
    encoder = load_text_encoder(tmp_path / "gemma.safetensors", device="meta")
    assert encoder.config == TextConfig()
    assert {prefix + key for key in encoder.model.state_dict()} == shapes.keys()

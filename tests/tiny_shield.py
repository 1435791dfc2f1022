"""A tiny random ShieldGemma of transformers, and its answers by the steps of NVIDIA's demo, shared by the tests."""

import json
from dataclasses import asdict

import tiny_text
import torch
from tokenizers.processors import TemplateProcessing
from transformers import Gemma2Config, Gemma2ForCausalLM, PreTrainedTokenizerFast

SYMBOLS = [*tiny_text.SYMBOLS, "<start_of_turn>", "<end_of_turn>", "Yes", "No"]
PROMPTS = ["a red apple", "  a small fluffy white cat\n", "oil <b>painting</b>  at dusk", "", "street lamps " * 40]
DECISIVE = 3.0  # how much larger the rows of the two answers are, so that their logits differ


def spiece():
    return tiny_text.spiece(SYMBOLS)


def tokenizer(spiece):
    """transformers' tokenizer, which puts BOS first and no EOS at the end."""
    fast = tiny_text.hugging_face_tokenizer(spiece, SYMBOLS)
    fast.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=fast, **names)


def model(tokenizer, **changes):
    """Gemma2ForCausalLM whose head is its table of embeddings. changes: of the configuration."""
    config = tiny_text.config(**changes)
    weights = tiny_text.state_dict(config)
    vocabulary = tokenizer.get_vocab()
    weights["embed_tokens.weight"][[vocabulary["Yes"], vocabulary["No"]]] *= DECISIVE
    # eager has the soft cap of attention in every version of transformers
    network = Gemma2ForCausalLM(Gemma2Config(**asdict(config), attn_implementation="eager", tie_word_embeddings=True))
    network.model.load_state_dict(weights)
    network.tie_weights()
    return network.eval()


@torch.no_grad()
def probability(network, tokenizer, text):
    """P(Yes) of a whole text."""
    logits = network(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits
    vocabulary = tokenizer.get_vocab()
    return logits[0, -1, [vocabulary["Yes"], vocabulary["No"]]].softmax(dim=0)[0].item()


def single_file(network, spiece):
    """Tensors and metadata of one file with the tokenizer inside, as ComfyUI's Gemma."""
    tensors = {key: tensor.clone() for key, tensor in network.state_dict().items() if key != "lm_head.weight"}
    tensors["spiece_model"] = torch.frombuffer(bytearray(spiece), dtype=torch.uint8)
    names = ("num_attention_heads", "num_key_value_heads", "head_dim", "query_pre_attn_scalar")
    stated = {name: getattr(network.config, name) for name in (*names, "final_logit_softcapping")}
    return tensors, {"config": json.dumps(stated)}

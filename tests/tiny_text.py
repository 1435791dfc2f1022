"""A tiny random Gemma-2 and a tiny tokenizer with the special ids of the real one, shared by the tests."""

import io

import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from sana_core.config import TextConfig
from sana_core.text.gemma import build_gemma2
from sana_core.text.instruction import INSTRUCTIONS

CORPUS = [
    "a small fluffy white cat sleeping on a warm sunny windowsill",
    "a red apple on a wooden table, oil painting, highly detailed",
    "User Prompt: a busy city street at dusk -> Enhanced: glowing street lamps, a diverse crowd",
    *INSTRUCTIONS["default"].split("\n"),
]
SYMBOLS = [
    "<mask>",
    *("\n" * n for n in range(1, 5)),
    *("\u2581" * n for n in range(2, 6)),
    "<table>",
    "</table>",
    "<b>",
    "</b>",
]
VOCAB_SIZE = 800


ANSWERING = ["<start_of_turn>", "<end_of_turn>", "Yes", "No"]  # what ShieldGemma's tokenizer needs besides


def spiece(symbols=SYMBOLS):
    """A serialised SentencePiece model laid out as Gemma's: pad, eos, bos, unk, mask are 0 to 4, then runs of newlines
    and spaces, tags.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 4), model_writer=model, model_type="bpe", vocab_size=VOCAB_SIZE,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3,
        pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>", user_defined_symbols=symbols,
        byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
        add_dummy_prefix=False, remove_extra_whitespaces=False,
        normalization_rule_name="identity", character_coverage=1.0, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def hugging_face_tokenizer(spiece, symbols=SYMBOLS):
    """The tokenizer.json that belongs to a SentencePiece BPE model: merges in the order of the scores, all symbols as
    added tokens.
    """
    sp = sentencepiece.SentencePieceProcessor(model_proto=spiece)
    pieces = [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    ordinary = {piece for i, piece in enumerate(pieces) if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i))}
    merges = []
    for i, piece in enumerate(pieces):
        splits = [(piece[:n], piece[n:]) for n in range(1, len(piece)) if {piece, piece[:n], piece[n:]} <= ordinary]
        merges += [(-sp.get_score(i), i, left, right) for left, right in splits]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    bpe = models.BPE(
        vocab,
        [(left, right) for _, _, left, right in sorted(merges)],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(piece, normalized=False) for piece in ("<pad>", "<eos>", "<bos>", "<unk>")]
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in symbols if "\u2581" not in piece])
    assert tokenizer.get_vocab_size() == len(pieces)
    return tokenizer


def config(**changes):
    small = {
        "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "vocab_size": VOCAB_SIZE,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "query_pre_attn_scalar": 8,
    }  # fmt: skip
    return TextConfig(**{**small, **changes})


def state_dict(config, seed=0):
    """Random weights under the names of `Gemma2Model`; attention logits are large enough for the soft cap to matter."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, tensor in build_gemma2(config).state_dict().items():
        scale = 0.2 if tensor.ndim == 1 else tensor.shape[1] ** -0.5
        gain = 6.0 if key.endswith(("q_proj.weight", "k_proj.weight")) else 1.0
        tensors[key] = torch.randn(tensor.shape, generator=generator) * scale * gain
    return tensors


def gemma_runs_on(device_type):
    """Gemma-2 of transformers before 5 switches autocast off for its device, which PyTorch refuses for some devices."""
    if int(transformers.__version__.split(".")[0]) >= 5:
        return True
    try:
        torch.autocast(device_type, enabled=False)
    except RuntimeError:
        return False
    return True

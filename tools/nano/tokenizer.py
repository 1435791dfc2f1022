"""Stage 2: train the tokenizer, a SentencePiece BPE with Gemma's settings and id layout.

    python tools/nano/tokenizer.py WORK

SANA puts an instruction of eight lines before each prompt. Every line with its line break is one piece here, so that the instruction costs
ten tokens instead of 208. The last line is `User Prompt:` without its space: the space joins the first word of the prompt, as in Gemma.
Writes WORK/tokenizer.model.
"""

from __future__ import annotations

import argparse
import io
import logging
import random
from pathlib import Path

import sentencepiece
from captions import CaptionSource, load_concepts, load_splits
from sizes import TEXT

from sana_core.text.instruction import INSTRUCTIONS

log = logging.getLogger("nano")
SPACE = "\u2581"  # SentencePiece's visible space


def instruction_pieces() -> list[str]:
    """Both wordings, line by line, in the order of their first use."""
    lines = [line for text in INSTRUCTIONS.values() for line in text.rstrip(" ").splitlines(keepends=True)]
    return list(dict.fromkeys(lines))


def train(captions: list[str], emoji: list[str], vocab_size: int) -> bytes:
    """A serialised SentencePiece model: pad 0, eos 1, bos 2, unk 3, byte fallback, no dummy prefix, text unchanged."""
    symbols = [piece.replace(" ", SPACE) for piece in instruction_pieces()] + emoji
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        user_defined_symbols=symbols,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        eos_piece="<eos>",
        bos_piece="<bos>",
        unk_piece="<unk>",
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    concepts = load_concepts(args.work)
    source, rng = CaptionSource(concepts, load_splits()), random.Random(0)
    captions = [source.draw(concept, rng).text for concept in concepts for _ in range(100)]
    # words also occur without a space before them, at the beginning of a prompt without the instruction
    captions += [word for concept in concepts for word in (concept.name, *concept.aliases, *source.keywords(concept), concept.zh)] * 5
    model = train(captions, [concept.emoji for concept in concepts], TEXT.vocab_size)
    (args.work / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    log.info("%d pieces, %d bytes", processor.get_piece_size(), len(model))


if __name__ == "__main__":
    main()

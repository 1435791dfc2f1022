"""Stage `tokenizer`: a SentencePiece BPE with Gemma's settings and id layout.

    python -m tools.nano.tokenizer WORK --size 256

SANA puts an instruction of eight lines before each prompt. Every line with its line break is one piece here, so that
the instruction costs ten tokens instead of 208. The last line is `User Prompt:` without its space: the space joins the
first word of the prompt, as in Gemma. Every emoji that is a concept is one piece, too. Writes WORK/tokenizer.model.
"""

from __future__ import annotations

import io
import logging
import random
from pathlib import Path

from sana_core.text.instruction import INSTRUCTIONS

from .captions import CaptionSource
from .command import parse
from .concepts import load_names
from .scenes import SceneSource
from .sizes import Size

log = logging.getLogger("nano")
SPACE = "\u2581"  # SentencePiece's visible space
CAPTIONS = 60_000


def instruction_pieces() -> list[str]:
    """Both wordings, line by line, in the order of their first use."""
    lines = [line for text in INSTRUCTIONS.values() for line in text.rstrip(" ").splitlines(keepends=True)]
    return list(dict.fromkeys(lines))


def train(texts: list[str], emoji: list[str], vocab_size: int) -> bytes:
    """A serialised SentencePiece model: pad 0, eos 1, bos 2, unk 3, byte fallback, no dummy prefix, text unchanged."""
    import sentencepiece

    symbols = [piece.replace(" ", SPACE) for piece in instruction_pieces()] + emoji
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=vocab_size,
        user_defined_symbols=symbols,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
        unk_piece="<unk>",
        byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True, add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity", character_coverage=1.0, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def build(work: Path, size: Size, captions: int = CAPTIONS) -> None:
    concepts, _, splits = load_names(work, size)
    scenes = SceneSource(concepts, splits, size.styles, dict(size.kinds))
    source, rng = CaptionSource(concepts, splits, size.styles), random.Random(0)
    texts = [source.draw(scenes.draw(rng), rng).text for _ in range(captions)]
    # words also occur without a space before them, at the beginning of a prompt without the instruction
    for concept in concepts:
        keywords = [word for word in concept.keywords if word != splits.keywords.get(concept.name)]
        texts += [concept.name, *concept.aliases, *keywords, concept.zh] * 5
    model = train(texts, [concept.emoji for concept in concepts], size.text.vocab_size)
    (work / "tokenizer.model").write_bytes(model)
    log.info("a tokenizer of %d pieces in %d bytes, from %d texts", size.text.vocab_size, len(model), len(texts))


def main() -> None:
    command = parse(__doc__)
    build(command.work, command.size)


if __name__ == "__main__":
    main()

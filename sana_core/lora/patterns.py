"""PEFT's patterns for module names, matched in bounded time.

A pattern is a regular expression out of a file, so it never reaches `re`, which can take exponential time. Supported:
names, `.`, `[...]`, `\\d \\w \\s` and their opposites, escaped punctuation, `^`, `$`, groups, `|`, lookahead, and the
quantifiers `* + ? {m,n}`, lazy or not. All others are refused: back references, lookbehind, flags, `\\b`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MAX_LENGTH = 500  # characters of a pattern, and of a name that is matched
MAX_DEPTH = 8  # groups within groups
MAX_STEPS = 2_000_000  # for all patterns of a file and all its modules: about a second
READING, TURN = 50, 10  # what reading a pattern and one turn of a group cost, in steps
_TOKEN = re.compile(r"\w+(?![\w*+?{])|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[:=!]|\{\d*,?\d*\}|.", re.DOTALL)
_COUNTS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class PatternError(ValueError):
    """A pattern that cannot be read, or that takes too long."""


@dataclass
class Budget:
    """Steps that the matching of a file's patterns may still take."""

    steps: int = MAX_STEPS

    def spend(self, steps: int = 1) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise PatternError("the patterns for module names take too long to match")


@dataclass
class Text:
    """A name to match, and where its characters are."""

    characters: str
    budget: Budget
    places: dict[str, int] = field(default_factory=dict)

    def where(self, atom: str, fits: Callable[[str], object]) -> int:
        """Positions of the characters that fit an atom, as bits."""
        if atom not in self.places:
            self.places[atom] = sum(1 << i for i, character in enumerate(self.characters) if fits(character))
        return self.places[atom]

    def where_word(self, word: str) -> int:
        """Positions at which a word begins, as bits."""
        if word not in self.places:
            found, place = 0, self.characters.find(word)
            while place >= 0:
                found, place = found | 1 << place, self.characters.find(word, place + 1)
            self.places[word] = found
        return self.places[word]


Matcher = Callable[[Text, int], int]
"""Takes positions at which to begin, as bits of an integer, and returns those at which a match can end."""


class Patterns:
    """Values by pattern, as in PEFT's `rank_pattern` and `alpha_pattern`. Raises PatternError for what it cannot read."""

    def __init__(self, values: Mapping[str, float], budget: Budget) -> None:
        self.budget = budget
        self.values = [(_compiled(pattern, budget), value) for pattern, value in values.items()]

    def find(self, name: str) -> float | None:
        """The value of the first pattern for a module: of the first `re.match(rf"(.*\\.)?({pattern})$", name)`."""
        if self.values and len(name) > MAX_LENGTH:
            raise PatternError(f"a module name has {len(name)} characters, at most {MAX_LENGTH} are matched")
        text = Text(name, self.budget)
        return next((value for matches, value in self.values if matches(text)), None)


def _compiled(pattern: str, budget: Budget) -> Callable[[Text], bool]:
    if len(pattern) > MAX_LENGTH:
        raise PatternError(f"a pattern for module names has {len(pattern)} characters, at most {MAX_LENGTH} are read")
    budget.spend(READING + TURN * len(pattern))
    tokens = _TOKEN.findall(pattern)[::-1]
    matcher = _alternatives(tokens, 0)
    if tokens:
        raise PatternError(f"the pattern {pattern!r} for module names has a ) too many")

    def matches(text: Text) -> bool:
        begins = text.where("begin", lambda character: character == ".") << 1 | 1
        return bool(matcher(text, begins) >> len(text.characters) & 1)

    return matches


def _alternatives(tokens: list[str], depth: int) -> Matcher:
    """Reads branches up to a closing parenthesis, which it leaves. tokens: what is left, in reverse."""
    if depth > MAX_DEPTH:
        raise PatternError(f"a pattern for module names has groups nested over {MAX_DEPTH} deep")
    branches = [_sequence(tokens, depth)]
    while tokens and tokens[-1] == "|":
        tokens.pop()
        branches.append(_sequence(tokens, depth))
    if len(branches) == 1:
        return branches[0]

    def match(text: Text, begins: int) -> int:
        text.budget.spend(TURN)
        ends = 0
        for branch in branches if begins else ():
            ends |= branch(text, begins)
        return ends

    return match


def _sequence(tokens: list[str], depth: int) -> Matcher:
    items: list[Matcher] = []
    while tokens and tokens[-1] not in ("|", ")"):
        items.append(_quantified(_item(tokens, depth), tokens))

    def match(text: Text, begins: int) -> int:
        for item in items:
            if not begins:
                break
            text.budget.spend()
            begins = item(text, begins)
        return begins

    return match


def _item(tokens: list[str], depth: int) -> Matcher:
    token = tokens.pop()
    if token in ("(", "(?:", "(?=", "(?!"):
        inner = _alternatives(tokens, depth + 1)
        if not tokens:
            raise PatternError("a pattern for module names has a ( that is not closed")
        tokens.pop()
        return inner if token in ("(", "(?:") else _lookahead(inner, wanted=token == "(?=")
    if token == "^":
        return lambda text, begins: begins & 1
    if token == "$":
        return lambda text, begins: begins & 1 << len(text.characters)
    return _character(token)


def _character(token: str) -> Matcher:
    """One character, or a word. `re` sees no more than one atom and one character, which cannot take long."""
    letter_escape = token[0] == "\\" and token[1:].isalnum() and token[1:] not in tuple("dDwWsS")
    if token in ("*", "+", "?", "[", "\\") or letter_escape or (len(token) > 1 and token[0] in "({"):
        raise PatternError(f"a pattern for module names has {token!r} where that is not supported")
    if token[0] not in ".[\\":
        return lambda text, begins: (begins & text.where_word(token)) << len(token)
    try:
        fits = re.compile(token).fullmatch
    except re.error as error:
        raise PatternError(f"a pattern for module names has {token!r}: {error}") from error
    return lambda text, begins: (begins & text.where(token, fits)) << 1


def _lookahead(inner: Matcher, wanted: bool) -> Matcher:
    def match(text: Text, begins: int) -> int:
        text.budget.spend(len(text.characters) + 1)
        held = 0
        for position in range(len(text.characters) + 1):
            if begins >> position & 1 and bool(inner(text, 1 << position)) == wanted:
                held |= 1 << position
        return held

    return match


def _quantified(item: Matcher, tokens: list[str]) -> Matcher:
    """`item` with the quantifier that follows, if one does."""
    token = tokens[-1] if tokens else ""
    if token not in _COUNTS and not (token.startswith("{") and re.search(r"\d", token)):
        return item
    tokens.pop()
    least, _, most = token[1:-1].partition(",")
    low, high = _COUNTS.get(token) or (int(least or 0), int(most) if most else None if "," in token else int(least))
    if tokens and tokens[-1] == "?":  # lazy: the same matches, found in another order
        tokens.pop()
    if tokens and (tokens[-1] in _COUNTS or re.match(r"\{\d", tokens[-1])):
        raise PatternError("a pattern for module names has two quantifiers in a row")
    return _repeated(item, low, high)


def _repeated(item: Matcher, low: int, high: int | None) -> Matcher:
    """`item` from `low` to `high` times; None: without limit.

    More turns than characters change nothing: one of them is empty and can be left out or repeated.
    """

    def match(text: Text, begins: int) -> int:
        turns = len(text.characters) + 1
        for _ in range(min(low, turns) if begins else 0):
            text.budget.spend(TURN)
            begins = item(text, begins)
        ends = new = begins
        for _ in range(turns if high is None else min(max(high - low, 0), turns)):
            if not new:
                break
            text.budget.spend(TURN)
            new = item(text, new) & ~ends
            ends |= new
        return ends

    return match

"""PEFT's patterns for module names: the same modules as PEFT's regular expression finds, in bounded time."""

import random
import re
import time

import pytest

from sana_core.lora.patterns import MAX_LENGTH, Budget, PatternError, Patterns

NAMES = [f"transformer_blocks.{i}.{name}" for i in range(12) for name in ("attn1.to_q", "attn2.to_q", "ff.conv_point")]
NAMES += ["proj_out", "to_q", "attn1", "xattn1.to_q", "a1.b", "", ".", "a\n"]
PATTERNS = [
    "", "to_q", "attn1.to_q", "^to_q", "^transformer_blocks.1.attn1.to_q", "^(transformer_blocks.1)", r".*\.to_q", ".*to_q", "n1.to_q",
    r"transformer_blocks\.\d+\.attn1\.to_q", r"transformer_blocks\.(0|1|1\d)\.(attn1|ff)\..+", "attn[12].to_q", "attn[^1].to_q",
    "(?:attn1|attn2).to_(q|k)", "(?!.*attn2).*to_q", "(?=.*1).*to_q$", r"\w+\.1.*", r"a\d\.b", "a{2}", "t{0,1}o_q", "x?attn1.to_q", "proj_out|to_q",
    "proj_(out)?", "(a|b|1|\\.)+", "([a-z_]+\\.)*\\d+\\.ff.*?", "{", "a{", "}", "]", "-", "[.]", "[]]", "$", "^$", "^", "a$b", "(to_q|)", "(|to_q)",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_as_peft_matches(pattern):
    found = {name for name in NAMES if Patterns({pattern: 1.0}, Budget()).find(name)}
    wanted = {name for name in NAMES if re.match(rf"(.*\.)?({pattern})\Z", name)}
    assert found == wanted


def random_pattern(choose, depth=0):
    kind = choose.random()
    if depth > 3 or kind < 0.45:
        return choose.choice(["a", "b", "ab", r"\.", ".", "[ab]", "[^a]", r"\w", "1", r"\d", "_"])
    inner = [random_pattern(choose, depth + 1) for _ in range(2)]
    if kind < 0.6:
        return "".join(inner)
    if kind < 0.7:
        return f"({'|'.join(inner)})"
    if kind < 0.75:
        return choose.choice(["^", "$", f"(?={inner[0]})", f"(?!{inner[0]})"])
    return f"({inner[0]})" + choose.choice(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{,2}", "*?", "+?", "??", "{2,}"])


def test_random_patterns():
    choose = random.Random(0)
    for _ in range(1500):
        pattern = random_pattern(choose)
        patterns = Patterns({pattern: 1.0}, Budget())
        for _ in range(4):
            name = "".join(choose.choice("ab1_.") for _ in range(choose.randint(0, 7)))
            wanted = re.match(rf"(.*\.)?({pattern})$", name) is not None
            assert (patterns.find(name) is not None) == wanted, (pattern, name)


def test_the_first_pattern_counts():
    patterns = Patterns({"attn1.to_q": 1.0, ".*to_q": 2.0, "to_q": 3.0}, Budget())
    assert [patterns.find(name) for name in ("b.0.attn1.to_q", "b.0.attn2.to_q", "to_k")] == [1.0, 2.0, None]


@pytest.mark.parametrize("pattern", [
    "(", ")", "a)|(b", "[", "*", "a**", "a*+", "a{1}{2}", "+a", "(?i)a", "(?P<n>a)", r"(a)\1", r"\ba", "(?<=a)b", "(?#x)", "\\", "a\\",
    "[b-a]", "(" * 400 + ")" * 400, "a" * (MAX_LENGTH + 1), "|*", "(|+)",
])  # fmt: skip
def test_what_is_not_supported(pattern):
    with pytest.raises(PatternError):
        Patterns({pattern: 1.0}, Budget()).find("a")


@pytest.mark.parametrize("patterns", [
    ["(a+)+b"], ["(a|aa)+b"], ["((a+)+)+b"], ["(a|a|a|a)*" * 40 + "b"], [".*" * 200 + "b"], ["[a-z]*" * 80 + "b"], ["(a?){400}" * 50 + "b"],
    ["(" * 8 + "a?" + "){400}" * 8], ["(?=(?=(?=(?=a))))" * 25 + "b"], ["(a|" * 8 + "b" + ")*" * 8], [f"a*{i}b" for i in range(100_000)],
])  # fmt: skip
def test_hostile_patterns_end_soon(patterns):
    begun = time.perf_counter()
    try:
        compiled = Patterns(dict.fromkeys(patterns, 1.0), Budget())
        assert not any(compiled.find("a" * (MAX_LENGTH - 1) + str(i)[-1]) for i in range(1000))
    except PatternError as error:
        assert "too long" in str(error)
    assert time.perf_counter() - begun < 4  # below 0.5 seconds on a processor that has nothing else to do


def test_every_module_of_a_large_network_may_have_its_pattern():
    names = [f"transformer_blocks.{block}.attn{index % 9}.to_q" for block in range(60) for index in range(9)]
    budget = Budget()
    for _ in range(2):  # rank_pattern and alpha_pattern
        patterns = Patterns({name: float(index) for index, name in enumerate(names)}, budget)
        assert [patterns.find(name) for name in names] == [float(index) for index in range(len(names))]


def test_long_names_are_refused():
    with pytest.raises(PatternError, match="a module name has 501 characters, at most 500"):
        Patterns({"a": 1.0}, Budget()).find("a" * 501)
    assert Patterns({}, Budget()).find("a" * 501) is None

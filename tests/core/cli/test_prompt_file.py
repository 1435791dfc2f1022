"""Files of prompts."""

import io
import json
import os
import sys
import threading

import pytest

from sana_core.cli.prompt_file import read_prompt_file
from sana_core.errors import InputError
from sana_core.pipeline import Request


def write(tmp_path, name, text, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


def test_txt(tmp_path):
    path = write(tmp_path, "p.txt", "a cat\n\n  \u732b with spaces \r\nlast", encoding="utf-8-sig")
    assert read_prompt_file(path) == [Request("a cat"), Request("\u732b with spaces"), Request("last")]


def test_jsonl_and_json(tmp_path):
    entries = [
        "plain",
        {"prompt": "x", "negative_prompt": "n", "seed": -3, "width": 64, "height": 32, "steps": 4, "batch_size": 2},
        {"prompt": "y", "guidance_scale": 2, "shift": 1.5, "sampler": "flow_euler", "instruction": "none"},
        {"prompt": "z", "pag_scale": 2, "pag_layers": "8, 9", "image": "a.png"},
    ]
    expected = [
        Request("plain"),
        Request("x", negative_prompt="n", seed=-3, width=64, height=32, steps=4, batch_size=2),
        Request("y", guidance_scale=2, shift=1.5, sampler="flow_euler", instruction=None),
        Request("z", pag_scale=2, pag_layers=[8, 9], image="a.png"),
    ]
    assert read_prompt_file(write(tmp_path, "p.json", json.dumps(entries, indent=2))) == expected
    assert read_prompt_file(write(tmp_path, "p.JSONL", "\n\n".join(map(json.dumps, entries)) + "\n")) == expected
    assert read_prompt_file(write(tmp_path, "p.jsonl", "\r\n".join(map(json.dumps, entries)))) == expected


BREAKS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"


@pytest.mark.parametrize("letter", BREAKS, ids=ascii)
def test_lines_end_at_line_ends_only(tmp_path, letter):
    """str.splitlines breaks a line at each of these."""
    prompts = [f"a cat{letter}on a table", "a dog"]
    assert read_prompt_file(write(tmp_path, "p.txt", "\n".join(prompts))) == [Request(prompt) for prompt in prompts]
    if letter >= "\x20":  # JSON itself allows no control character in a text
        lines = "\n".join(json.dumps({"prompt": prompt}, ensure_ascii=False) for prompt in prompts)
        assert read_prompt_file(write(tmp_path, "p.jsonl", lines)) == [Request(prompt) for prompt in prompts]


def test_own_settings_win_over_common_ones(tmp_path):
    common = Request("", negative_prompt="common", seed=1, width=64)
    path = write(tmp_path, "p.jsonl", '{"prompt": "x", "seed": 0, "negative_prompt": ""}\n"y"')
    own = Request("x", negative_prompt="", seed=0, width=64)
    assert read_prompt_file(path, common) == [own, Request("y", negative_prompt="common", seed=1, width=64)]


def test_null_is_a_setting_that_is_not_given(tmp_path):
    names = ("negative_prompt", "seed", "width", "steps", "shift", "sampler", "image", "pag_layers", "instruction")
    path = write(tmp_path, "p.jsonl", json.dumps({"prompt": "x", **dict.fromkeys(names)}))
    assert read_prompt_file(path) == [Request("x")]
    assert read_prompt_file(path, Request("", seed=7, steps=3)) == [Request("x", seed=7, steps=3)]


def test_whole_numbers_as_other_tools_write_them(tmp_path):
    line = '{"prompt": "x", "seed": 42.0, "width": 64.0, "steps": 2e1, "pag_layers": [1, 2.0]}'
    (request,) = read_prompt_file(write(tmp_path, "p.jsonl", line))
    assert request == Request("x", seed=42, width=64, steps=20, pag_layers=[1, 2])
    assert {type(value) for value in (request.seed, request.width, request.steps)} == {int}


CONTENTS = {
    "a cat\n{a|b} dog\n": [Request("a cat"), Request("{a|b} dog")],
    '\n{"prompt": "x", "seed": 1}\n"y"\n': [Request("x", seed=1), Request("y")],
    '[\n "x",\n {"prompt": "y"}\n]\n': [Request("x"), Request("y")],
    "[a] cat\n": [Request("[a] cat")],
    "42\n": [Request("42")],
}


@pytest.mark.parametrize("content", CONTENTS, ids=ascii)
def test_stdin_and_pipes_tell_their_kind_by_what_they_hold(tmp_path, monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode()), encoding="cp1252"))
    assert read_prompt_file("-") == CONTENTS[content]
    assert read_prompt_file(write(tmp_path, "prompts", content)) == CONTENTS[content]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=('{"prompt": "x"}\n',))
    writer.start()
    assert read_prompt_file(tmp_path / "pipe") == [Request("x")]
    writer.join()


def test_no_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="stdin cannot be read"):
        read_prompt_file("-")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "", "holds no prompt"),
        ("p.txt", " \n\n", "holds no prompt"),
        ("p", "", "holds no prompt"),
        ("p.jsonl", "\n", "holds no prompt"),
        ("p.json", "[]", "holds no prompt"),
        ("p.json", "", "holds no prompt"),
        ("p.csv", "a cat", r"one of \.txt, \.json, \.jsonl"),
        ("p.json", '{"prompt": "x"}', "JSON dict, expected a list"),
        ("p.json", '["a", 3]', "entry 2: expected a text or an object"),
        ("p.jsonl", '"a"\n{broken', "line 2 is not JSON"),
        ("p", '"a"\n{broken', "line 2 is not JSON"),
        ("p.jsonl", '{"seed": 1}', 'line 1: expected a text or an object with "prompt"'),
        ("p.jsonl", '{"prompt": null}', "prompt is null, expected a text"),
        ("p.jsonl", '{"prompt": "x", "cfg": 1}', 'unknown setting "cfg"'),
        ("p.jsonl", '{"prompt": "x", "latents": [1]}', 'unknown setting "latents"'),
        ("p.jsonl", f'{{"prompt": "x", "{"y" * 5000}": 1}}', 'unknown setting "y{79}, expected prompt'),
        ("p.jsonl", '{"prompt": 5}', "prompt is 5, expected a text"),
        ("p.jsonl", '{"prompt": ["a"]}', r'prompt is \["a"\], expected a text'),
        ("p.jsonl", '{"prompt": "x", "width": "64"}', 'width is "64", expected a whole number'),
        ("p.jsonl", '{"prompt": "x", "steps": 2.5}', "steps is 2.5, expected a whole number"),
        ("p.jsonl", '{"prompt": "x", "steps": NaN}', "steps is NaN, expected a whole number"),
        ("p.jsonl", '{"prompt": "x", "seed": 1e999}', "seed is Infinity, expected a whole number"),
        ("p.jsonl", '{"prompt": "x", "seed": true}', "seed is true, expected a whole number"),
        ("p.jsonl", '{"prompt": "x", "shift": "3"}', 'shift is "3", expected a finite number'),
        ("p.jsonl", '{"prompt": "x", "shift": true}', "shift is true, expected a finite number"),
        ("p.jsonl", '{"prompt": "x", "pag_layers": "all"}', '"all" does not name blocks'),
        ("p.jsonl", '{"prompt": "x", "pag_layers": [1.5]}', "expected a whole number"),
        (
            "p.jsonl",
            '{"prompt": "x", "guidance_scale": NaN}',
            "line 1: guidance_scale is NaN, expected a finite number",
        ),
        ("p.jsonl", '{"prompt": "x", "shift": -1e999}', "shift is -Infinity, expected a finite number"),
        ("p.jsonl", f'{{"prompt": "x", "strength": 1{"0" * 400}}}', "strength is 10+, expected a finite number"),
        ("p.json", "[" * 100_000, r"p\.json is nested too deeply"),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl is nested too deeply"),
        ("p.jsonl", '{"prompt": "x", "seed": ' + "[" * 100_000, r"p\.jsonl is nested too deeply"),
        ("p", "[" * 100_000, "p is nested too deeply"),
        ("p.jsonl", r'"caf\ud800"', r"line 1: prompt is not valid Unicode text, found '\\ud800' at position 3"),
        (
            "p.json",
            r'[{"prompt": "x", "negative_prompt": "\udcff"}]',
            "entry 1: negative_prompt is not valid Unicode text",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, text, said):
    with pytest.raises(InputError, match=said) as error:
        read_prompt_file(write(tmp_path, name, text))
    assert len(str(error.value)) < 1000


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    for path in (tmp_path / "none.txt", tmp_path, tmp_path / "binary.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_prompt_file(path)

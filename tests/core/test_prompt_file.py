"""Files of prompts."""

import json

import pytest

from sana_core.cli.prompt_file import Job, read_prompt_file
from sana_core.errors import InputError


def write(tmp_path, name, text, encoding="utf-8"):
    path = tmp_path / name
    path.write_text(text, encoding=encoding)
    return path


def test_txt(tmp_path):
    path = write(tmp_path, "p.txt", "a cat\n\n  \u732b with spaces \r\nlast", encoding="utf-8-sig")
    assert read_prompt_file(path) == [Job(prompt="a cat"), Job(prompt="\u732b with spaces"), Job(prompt="last")]


def test_jsonl_and_json(tmp_path):
    entries = ["plain", {"prompt": "x", "negative_prompt": "n", "seed": -3, "width": 64, "height": 32, "steps": 4},
               {"prompt": "y", "guidance_scale": 2, "shift": 1.5, "sampler": "flow_euler"}]  # fmt: skip
    expected = [
        Job(prompt="plain"),
        Job(prompt="x", negative_prompt="n", seed=-3, width=64, height=32, steps=4),
        Job(prompt="y", guidance_scale=2, shift=1.5, sampler="flow_euler"),
    ]
    assert read_prompt_file(write(tmp_path, "p.json", json.dumps(entries, indent=2))) == expected
    assert read_prompt_file(write(tmp_path, "p.JSONL", "\n\n".join(map(json.dumps, entries)) + "\n")) == expected


def test_own_settings_win_over_common_ones():
    common = Job(prompt="", negative_prompt="common", seed=1, width=64)
    assert Job(prompt="x", seed=0, negative_prompt="").or_else(common) == Job(
        prompt="x", negative_prompt="", seed=0, width=64
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.txt", "", "holds no prompt"),
        ("p.txt", " \n\n", "holds no prompt"),
        ("p.jsonl", "\n", "holds no prompt"),
        ("p.json", "[]", "holds no prompt"),
        ("p.json", "", "holds no prompt"),
        ("p.csv", "a cat", r"one of \.txt, \.json, \.jsonl"),
        ("p.json", '{"prompt": "x"}', "JSON dict, expected a list"),
        ("p.json", '["a", 3]', "entry 2: expected a text or an object"),
        ("p.jsonl", '"a"\n{broken', "line 2 is not JSON"),
        ("p.jsonl", '{"seed": 1}', 'line 1: expected a text or an object with "prompt"'),
        ("p.jsonl", '{"prompt": "x", "cfg": 1}', 'unknown setting "cfg"'),
        ("p.jsonl", '{"prompt": 5}', "prompt is 5, expected a text"),
        ("p.jsonl", '{"prompt": "x", "width": "64"}', 'width is "64", expected a whole number'),
        ("p.jsonl", '{"prompt": "x", "steps": 2.5}', "steps is 2.5, expected a whole number"),
        ("p.jsonl", '{"prompt": "x", "seed": true}', "seed is true, expected a whole number"),
        ("p.jsonl", '{"prompt": "x", "shift": null}', "shift is null, expected a finite number"),
        (
            "p.jsonl",
            '{"prompt": "x", "guidance_scale": NaN}',
            "line 1: guidance_scale is NaN, expected a finite number",
        ),
        ("p.jsonl", '{"prompt": "x", "shift": -1e999}', "shift is -Infinity, expected a finite number"),
        ("p.jsonl", f'{{"prompt": "x", "strength": 1{"0" * 400}}}', "strength is 10+, expected a finite number"),
        ("p.json", "[" * 100_000, r"p\.json is nested too deeply"),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl is nested too deeply"),
        ("p.jsonl", r'"caf\ud800"', r"line 1: prompt is not valid Unicode text, found '\\ud800' at position 3"),
        (
            "p.json",
            r'[{"prompt": "x", "negative_prompt": "\udcff"}]',
            "entry 1: negative_prompt is not valid Unicode text",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, text, said):
    with pytest.raises(InputError, match=said):
        read_prompt_file(write(tmp_path, name, text))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    for path in (tmp_path / "none.txt", tmp_path, tmp_path / "binary.txt"):
        with pytest.raises(InputError, match="cannot be read"):
            read_prompt_file(path)

"""A short run of the fuzzer over bodies of /prompt. The long one: python -m tools.fuzz --target prompt."""

import sys

import pytest

from tools.fuzz.run import fuzz
from tools.fuzz.target import write
from tools.fuzz.targets.nodes import targets

CASES = 200


def test_the_undamaged_prompts_are_drawn(tmp_path):
    (target,) = targets()
    for index, files in enumerate(target.seeds()):
        folder = tmp_path / str(index)
        write(files, folder)
        target.read(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux's /proc")
def test_every_prompt_is_drawn_or_refused():
    (target,) = targets()
    result = fuzz(target, 0, range(CASES), jobs=2)
    assert [str(failure) for failure in result.failures] == []
    assert result.cases == CASES and result.accepted > 0 and result.refused > 0

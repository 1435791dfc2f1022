"""Small pictures first."""

import pytest

from sana_core.errors import InputError
from tools.nano.resolution import Phase, check_phases, phase_at


def test_small_pictures_come_first():
    phases = (Phase(pixels=128, batch=8, share=0.25), Phase(pixels=256, batch=4, share=0.75))
    check_phases(phases)
    assert [phase_at(phases, step, 8).pixels for step in range(8)] == [128, 128, *[256] * 6]
    for wrong in (phases[::-1], phases[:1]):
        with pytest.raises(InputError, match="growing pictures"):
            check_phases(wrong)


@pytest.mark.parametrize("change", [{"pixels": 100}, {"batch": 0}, {"share": 0.0}])
def test_phases_that_cannot_be_are_errors(change):
    with pytest.raises(InputError, match="training phase"):
        Phase(**{"pixels": 64, "batch": 1, "share": 1.0, **change})

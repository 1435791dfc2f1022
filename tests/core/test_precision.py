"""Which releases were trained in float16, what that changes, and what is said when another type is forced."""

import dataclasses
import logging

import pytest
import tiny
import torch
from safetensors.torch import save_file

from sana_core.checkpoint.load import load_transformer
from sana_core.config import POSITIONS
from sana_core.errors import InputError, SanaError
from sana_core.precision import loaded_dtype, precision_warning, run_dtypes, trained_in_fp16
from sana_core.presets import RELEASES

F32, F16, BF16, FP8 = torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn
BY_NAME = {release.name: release for release in RELEASES}


def unknown(config):
    return dataclasses.replace(config, fp16_trained=None)


@pytest.mark.parametrize("name, stored, size, expected", [
    ("Sana_600M_512px", F32, None, True),  # every 0.6B model of the first version
    ("Sana_600M_1024px", FP8, None, True),
    ("Sana_600M_1024px", BF16, None, None),  # someone has converted or trained it further
    ("Sana_1600M_1024px", F16, None, True),
    ("Sana_1600M_512px", F32, 512, True),  # both 1.6B models of 512 px
    ("Sana_1600M_512px", F32, None, None),
    ("Sana_1600M_1024px_MultiLing", F32, 1024, None),
    ("Sana_1600M_1024px_BF16", F32, 1024, None),
    ("Sana_1600M_1024px_BF16", BF16, None, None),
    ("Sana_1600M_2Kpx_BF16", F32, 2048, False),
    ("Sana_1600M_4Kpx_BF16", F16, None, False),  # stored small, trained in bfloat16 all the same
    ("SANA1.5_1.6B_1024px", F16, None, False),
    ("SANA1.5_4.8B_1024px", F32, None, False),
    ("Sana_Sprint_0.6B_1024px", F32, None, False),
    ("Sana_Sprint_1.6B_1024px", BF16, 1024, False),
])  # fmt: skip
def test_what_files_of_the_releases_tell(name, stored, size, expected):
    assert trained_in_fp16(unknown(BY_NAME[name].config), stored, native_size=size)[0] is expected


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
@pytest.mark.parametrize("stored", [F32, BF16, FP8])
def test_no_release_loses_its_clamp_and_none_is_computed_in_a_narrower_range(release, stored):
    """In its own type, float32 or one that it was converted to, whatever is known of its size."""
    for size in (None, release.native_size):
        verdict, _ = trained_in_fp16(unknown(release.config), stored, native_size=size)
        assert verdict is not (release.dtype == BF16)
        assert run_dtypes(dataclasses.replace(release.config, fp16_trained=verdict))[0] in (release.dtype, BF16)


def test_the_users_word_comes_first_then_the_files():
    config = BY_NAME["Sana_1600M_1024px"].config
    assert trained_in_fp16(config, F16, chosen="bfloat16", stated=True) == (False, "as chosen")
    assert trained_in_fp16(config, BF16, chosen="float16") == (True, "as chosen")
    assert trained_in_fp16(config, F16, stated=False)[0] is False
    with pytest.raises(InputError, match="expected float16 or bfloat16"):
        trained_in_fp16(config, F16, chosen="float32")


@pytest.mark.parametrize("fp16_trained, stored, expected", [
    (True, F16, F16), (True, F32, F32), (True, BF16, F16), (True, FP8, F16),
    (False, BF16, BF16), (False, F32, F32), (False, F16, BF16), (False, FP8, BF16),
    (None, F32, F32), (None, BF16, BF16),
])  # fmt: skip
def test_a_file_is_loaded_in_a_type_that_the_network_can_run_in(tmp_path, fp16_trained, stored, expected):
    config = tiny.transformer_config(depth=1, fp16_trained=fp16_trained)
    assert loaded_dtype(config, stored) == expected
    assert precision_warning(config, expected) is None
    save_file(
        {key: t.to(stored) for key, t in tiny.transformer(depth=1).state_dict().items()}, tmp_path / "m.safetensors"
    )
    trained = {True: "float16", False: "bfloat16", None: None}[fp16_trained]
    model = load_transformer(tmp_path / "m.safetensors", trained_precision=trained, device="meta")
    assert (model.config.fp16_trained, model.scale_shift_table.dtype) == (fp16_trained, expected)


@pytest.mark.parametrize("fp16_trained, dtype, said", [
    (False, F16, "trained in bfloat16 but was made to compute in float16"),
    (None, F16, "does not tell whether it was trained in it"),
    (True, BF16, "trained in float16 but was made to compute in bfloat16"),
])  # fmt: skip
def test_a_forced_type_is_warned_of_with_what_happens_and_what_to_choose(tmp_path, caplog, fp16_trained, dtype, said):
    warning = precision_warning(tiny.transformer_config(fp16_trained=fp16_trained), dtype)
    assert said in warning and "broken" in warning and "hoose" in warning
    save_file(tiny.transformer(depth=1).state_dict(), tmp_path / "m.safetensors")
    trained = {True: "float16", False: "bfloat16", None: None}[fp16_trained]
    with caplog.at_level(logging.INFO, "sana"):
        load_transformer(tmp_path / "m.safetensors", dtype=dtype, trained_precision=trained, device="meta")
    levels = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in levels] == ["INFO", "WARNING"] and levels[1][1].endswith(warning)


def test_float32_is_never_warned_of():
    assert all(
        precision_warning(tiny.transformer_config(fp16_trained=trained), F32) is None for trained in (True, False, None)
    )


@pytest.mark.parametrize("changes, arguments, said", [
    ({}, {}, "a SANA of 1 blocks, 224 wide, taken for 512 or 1024 px, as the file does not tell"),
    ({}, {}, "trained precision unknown (stored in float32, which both kinds are): keeps float16's clamp"),
    ({}, {"variant": "4k"}, "4096 px (as chosen), trained in bfloat16 (as all of SANA-1.5, Sprint, 2K and 4K)"),
    ({}, {"trained_precision": "float16"}, "trained in float16, so with its clamp (as chosen)"),
    ({"qk_norm": True}, {}, "trained in bfloat16 (as all of SANA-1.5"),
])  # fmt: skip
def test_one_line_tells_what_was_found_and_decided(tmp_path, caplog, changes, arguments, said):
    save_file(tiny.transformer(depth=1, **changes).state_dict(), tmp_path / "m.safetensors")
    with caplog.at_level(logging.INFO, "sana"):
        load_transformer(tmp_path / "m.safetensors", **arguments)
    (record,) = caplog.records
    assert said in record.getMessage() and str(tmp_path / "m.safetensors") in record.getMessage()


def test_an_unknown_choice_is_refused_before_anything_is_loaded(tmp_path):
    save_file(tiny.transformer(depth=1, position=POSITIONS["2k"]).state_dict(), tmp_path / "m.safetensors")
    with pytest.raises(SanaError, match='trained precision "float32", expected float16 or bfloat16'):
        load_transformer(tmp_path / "m.safetensors", trained_precision="float32")


@torch.no_grad()
def test_the_clamp_is_part_of_a_float16_release_in_every_type_and_nothing_to_the_others():
    """Values beyond float16's range after the projection: clamped unless the model is known to be of the other kind."""
    generator = torch.Generator().manual_seed(0)
    given = torch.randn(1, 32, 2, 2, generator=generator), torch.ones(1), torch.randn(1, 3, 96, generator=generator)
    models = {trained: tiny.transformer(depth=1, fp16_trained=trained) for trained in (True, None, False)}
    small = {trained: model(*given) for trained, model in models.items()}
    assert torch.equal(small[True], small[False]) and torch.equal(small[None], small[False])
    for model in models.values():
        model.blocks[0].attn1.to_out[0].weight *= 1e6
    large = {trained: model(*given) for trained, model in models.items()}
    assert torch.equal(large[True], large[None]) and not torch.allclose(large[True], large[False])
    half = [part.bfloat16() for part in given]
    assert models[True].bfloat16()(*half).isfinite().all()

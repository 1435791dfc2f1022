"""The table of releases against the published sizes of the models."""

from dataclasses import replace

import pytest
import tiny
import torch

from sana_core.config import POSITIONS, PositionConfig
from sana_core.kit import Kit
from sana_core.latents import RESOLUTION_BINS
from sana_core.presets import (
    AUTOENCODERS,
    CONTROLNETS,
    NETWORKS,
    PARAMETERS,
    RELEASES,
    TEXT_ENCODER,
    network_name,
    sampling_defaults,
)
from sana_core.transformer.model import SanaTransformer

BY_NAME = {release.name: release for release in RELEASES}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters(name):
    model = SanaTransformer(NETWORKS[name], Kit(device="meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]


def test_names_and_files_are_unique():
    assert len(BY_NAME) == len(RELEASES) == 13
    assert len({release.file for release in RELEASES}) == 13
    assert BY_NAME["Sana_600M_512px"].file == "checkpoints/Sana_600M_512px_MultiLing.pth"
    assert BY_NAME["SANA1.5_4.8B_1024px"].diffusers_repository == "Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers"


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_release_agrees_with_itself(release):
    sampling = release.sampling
    assert sampling.width == sampling.height == release.native_size and release.native_size in RESOLUTION_BINS
    bf16 = any(sign in release.name for sign in ("BF16", "SANA1.5", "Sprint"))
    assert release.dtype == (torch.bfloat16 if bf16 else torch.float16)
    assert (sampling.sampler == "scm") == release.config.guidance_embed
    assert sampling.shift == (6.0 if "4K" in release.name else 1.0 if "Sprint" in release.name else 3.0)
    assert "NVIDIA" in release.licence and "Gemma" in release.licence


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_defaults_are_found_by_the_configuration(release):
    """float16 files converted to another type still find theirs; 512 and 1024 differ in nothing but the size that is
    given.
    """
    for config in (release.config, replace(release.config, fp16_trained=False)):
        assert sampling_defaults(config, release.native_size) == release.sampling


def test_defaults_of_other_shapes_are_those_of_their_family():
    assert sampling_defaults(tiny.transformer_config()) == BY_NAME["Sana_1600M_1024px"].sampling
    assert (
        sampling_defaults(tiny.transformer_config(position=POSITIONS["4k"])) == BY_NAME["Sana_1600M_4Kpx_BF16"].sampling
    )
    assert sampling_defaults(tiny.transformer_config(position=POSITIONS["2k"])).width == 2048
    sprint = tiny.transformer_config(hidden_size=288, qk_norm=True, guidance_embed=True)
    assert sampling_defaults(sprint) == BY_NAME["Sana_Sprint_0.6B_1024px"].sampling
    unknown = sampling_defaults(tiny.transformer_config(position=PositionConfig(base_size=32, interpolation=1.0)), 256)
    assert (unknown.steps, unknown.shift, unknown.width, unknown.height) == (20, 3.0, 256, 256)


@pytest.mark.parametrize("name, expected", [
    ("Sana_600M_512px", "SANA 0.6B"), ("Sana_1600M_4Kpx_BF16", "SANA 1.6B"),
    ("SANA1.5_1.6B_1024px", "SANA-1.5 1.6B"), ("SANA1.5_4.8B_1024px", "SANA-1.5 4.8B"),
    ("Sana_Sprint_0.6B_1024px", "SANA-Sprint 0.6B"), ("Sana_Sprint_1.6B_1024px", "SANA-Sprint 1.6B"),
])  # fmt: skip
def test_network_names(name, expected):
    assert network_name(BY_NAME[name].config) == expected
    assert set(NETWORKS) == {network_name(release.config) for release in RELEASES}


def test_a_network_that_was_not_published_is_described():
    assert network_name(tiny.transformer_config()) == "a SANA of 2 blocks, 224 wide"


def test_where_parts_come_from():
    parts = (*RELEASES, *AUTOENCODERS, *CONTROLNETS, TEXT_ENCODER)
    assert len({part.url for part in parts}) == len(parts)
    assert all(
        part.url.startswith(f"https://huggingface.co/{part.repository}/resolve/main/") and part.licence
        for part in parts
    )
    assert {part.directory for part in parts} == {"diffusion_models", "vae", "controlnet", "text_encoders"}
    assert TEXT_ENCODER.file_name == "gemma_2_2b_fp16.safetensors"
    assert BY_NAME["Sana_600M_512px"].file_name == "Sana_600M_512px_MultiLing.pth"

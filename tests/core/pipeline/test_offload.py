"""Networks that take turns on the device."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
import tiny
import torch
from PIL import Image
from torch import nn

from sana_core.cli import main
from sana_core.pipeline import SanaPipeline, load_pipeline
from sana_core.pipeline import pipeline as pipeline_module
from sana_core.pipeline.memory import peak_memory
from sana_core.pipeline.offload import on_device
from sana_core.transformer.controlnet import SanaControlNet

SETTINGS: dict[str, Any] = {"width": 128, "height": 64, "steps": 2, "seed": 3, "output": "tensor"}


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Makes `.to(device)` copy even from the CPU to the CPU, as it does between devices. Returns the shapes copied."""
    made = []
    to = torch.Tensor.to

    def copying(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        if args == (torch.device("cpu"),):
            made.append(tuple(tensor.shape))
            return tensor.clone()
        return to(tensor, *args, **kwargs)  # pyright: ignore[reportCallIssue, reportArgumentType]

    monkeypatch.setattr(torch.Tensor, "to", copying)
    return made


def network() -> nn.Module:
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    made.eval().requires_grad_(False)
    return made


def addresses(module: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())]


def test_weights_and_buffers_are_copied_for_the_turn_and_home_again_after_it(copies):
    net, other, x = network(), network(), torch.randn(2, 3)
    expected, home, other_home = net(x), addresses(net), addresses(other)
    with on_device(torch.device("cpu"), net):
        assert not set(addresses(net)) & set(home) and len(copies) == len(home)
        assert addresses(other) == other_home
        assert torch.equal(net(x), expected)
    assert addresses(net) == home and torch.equal(net(x), expected)
    assert len(copies) == len(home)  # none on the way back


def test_weights_go_home_after_an_error_too(copies):
    net, other = network(), network()
    home = addresses(net), addresses(other)
    with pytest.raises(KeyboardInterrupt), on_device(torch.device("cpu"), net, other):
        assert not set(addresses(net)) & set(home[0]) and not set(addresses(other)) & set(home[1])
        raise KeyboardInterrupt
    assert (addresses(net), addresses(other)) == home


def draw(pipeline: SanaPipeline, prompt: str, **more: Any) -> torch.Tensor:
    return cast(torch.Tensor, pipeline(prompt, **SETTINGS, **more))


@pytest.fixture(scope="module")
def resident() -> SanaPipeline:
    """With hooks that do nothing, as the networks that it is compared with have hooks: no layer's work is taken over
    then, and both compute the same to the bit.
    """
    pipeline = load_pipeline("nano", device="cpu")
    for network in (pipeline.text_encoder, pipeline.transformer, pipeline.autoencoder):
        for module in network.modules():
            module.register_forward_pre_hook(lambda *_: None)
    return pipeline


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[set[nn.Module]]:
    """The networks on the device after each coming and going, from now on."""
    seen: list[set[nn.Module]] = [set()]

    @contextmanager
    def watched(device: torch.device, *networks: nn.Module) -> Iterator[None]:
        with on_device(device, *networks):
            seen.append(seen[-1] | set(networks))
            yield
            seen.append(seen[-1] - set(networks))

    monkeypatch.setattr(pipeline_module, "on_device", watched)
    return seen


def only_on_its_turn(network: nn.Module, turns: list[set[nn.Module]], layers: list[nn.Module]) -> None:
    """From now on every layer of `network` that runs checks that it is on the device, and adds itself to `layers`."""

    def check(layer: nn.Module, _: object) -> None:
        assert network in turns[-1]
        layers.append(layer)

    for module in network.modules():
        if not list(module.children()):
            module.register_forward_pre_hook(check)


def test_the_picture_is_the_same_and_one_network_is_on_the_device_at_a_time(resident, turns, copies):
    expected = draw(resident, "a red apple")
    assert turns == [set()]
    copies.clear()
    offloaded = load_pipeline("nano", device="cpu", offload=True)
    networks = (offloaded.text_encoder, offloaded.transformer, offloaded.autoencoder)
    ran: list[nn.Module] = []
    for network in networks:
        only_on_its_turn(network, turns, ran)
    assert torch.equal(draw(offloaded, "a red apple"), expected)
    assert turns == [set(), {networks[0]}, set(), {networks[1]}, set(), {networks[2]}, set()]
    assert all(any(layer in set(network.modules()) for layer in ran) for network in networks)
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    assert all(copies.count(tuple(weight.shape)) >= 1 for weight in weights)


def test_redrawing_a_picture_takes_turns_too(resident, turns):
    picture = draw(resident, "a red apple")
    expected = draw(resident, "a blue apple", image=picture)
    offloaded = load_pipeline("nano", device="cpu", offload=True)
    autoencoder, text_encoder, transformer = offloaded.autoencoder, offloaded.text_encoder, offloaded.transformer
    for network in (autoencoder, text_encoder, transformer):
        only_on_its_turn(network, turns, [])
    assert torch.equal(draw(offloaded, "a blue apple", image=picture), expected)
    assert [on for on in turns if on] == [{text_encoder}, {autoencoder}, {transformer}, {autoencoder}]


def test_the_peak_is_at_least_what_is_held(resident):
    held = sum(tensor.numel() * 4 for tensor in resident.transformer.parameters()) / 1e9
    said = peak_memory(torch.device("cpu"))
    assert held < float(said.split()[0]) < 100 and "GB of the whole process" in said


def test_a_controlnet_shares_the_turn_of_the_transformer(resident, turns):
    network = tiny.randomized(SanaControlNet(replace(resident.transformer.config, depth=2)))
    picture = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    controlled = replace(resident, controlnet=network)
    expected = draw(controlled, "a red apple", control_image=picture)
    assert turns == [set()] and not torch.equal(expected, draw(resident, "a red apple"))
    assert torch.equal(draw(replace(controlled, offload=True), "a red apple", control_image=picture), expected)
    autoencoder, text_encoder, transformer = resident.autoencoder, resident.text_encoder, resident.transformer
    assert [on for on in turns if on] == [{text_encoder}, {autoencoder}, {transformer, network}, {autoencoder}]


@pytest.mark.parametrize(
    ("pixels", "fits", "resident_tile", "offloaded_tile"),
    [
        (1024, None, None, None),
        (1024, 512, 512, 512),
        (2048, None, None, 1024),
        (4096, 2048, 2048, 1024),
        (4096, 384, 384, 384),
    ],
)
def test_offloading_bounds_the_tiles(resident, monkeypatch, pixels, fits, resident_tile, offloaded_tile):
    used = []

    def decode(latents: torch.Tensor, *, tile: int | None) -> torch.Tensor:
        used.append(tile)
        return latents[:, :3]

    monkeypatch.setattr(pipeline_module, "auto_tile", lambda *_, **__: fits)
    for offload in (False, True):
        pipeline = replace(resident, offload=offload)
        monkeypatch.setattr(pipeline.autoencoder, "decode", decode)
        pipeline.decode(torch.zeros(1, 32, pixels // 64, pixels // 32), pil=False)
    assert used == [resident_tile, offloaded_tile]


def test_the_command_line_tells_the_peak(tmp_path, capsys):
    def drawn(name: str, *options: str) -> bytes:
        assert (
            main(
                [
                    "a red apple",
                    "-o",
                    str(tmp_path / name),
                    "--size",
                    "64",
                    "--steps",
                    "1",
                    "--seed",
                    "1",
                    "--device",
                    "cpu",
                    *options,
                ]
            )
            == 0
        )
        with Image.open(tmp_path / name) as picture:
            return picture.tobytes()

    plain = drawn("plain.png")
    assert "peak of memory" not in capsys.readouterr().err
    assert drawn("offloaded.png", "--offload") == plain
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"peak of memory: \d+\.\d\d GB of the whole process, resident in the CPU's memory", last)
    assert drawn("quiet.png", "--offload", "--quiet") == plain
    assert capsys.readouterr().err == ""

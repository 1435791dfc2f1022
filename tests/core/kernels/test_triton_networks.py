"""Whole networks on the Triton kernels draw what they draw on plain operations, see `triton_checks.py`."""

import pytest
import tiny
import torch

pytest.importorskip("triton")

from triton_checks import run_checks

from sana_core.fast import use_kernels
from sana_core.kernels import choice
from sana_core.pipeline import load_pipeline

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
dtypes = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=["float32", "bfloat16"])


@pytest.mark.slow
def test_networks():
    run_checks(__file__, "check_a")


@pytest.mark.slow
def test_the_embedded_model():
    run_checks(__file__, "check_embedded")


@pytest.fixture
def kernels(monkeypatch):
    """As on a GPU: every operation that can use its kernel does, and its comparison with the plain one holds."""
    monkeypatch.setattr(choice, "obstacle", lambda device: None)
    operations = vars(choice.CHOSEN).values()
    for operation in operations:
        monkeypatch.setattr(operation, "_checked", set())
        monkeypatch.setattr(operation, "_fits", {})
    yield operations
    assert not [operation.off for operation in operations if operation.off]


def both(network, run):
    """Results on plain operations, and on kernels: the second run, since the first compares them."""
    use_kernels(network, choice.PLAIN)
    plain = run()
    use_kernels(network, choice.CHOSEN)
    run()
    return run(), plain


def used(operations):
    return {operation.name for operation in operations if operation._checked}


@dtypes
@pytest.mark.parametrize("changes", [{"fp16_trained": True}, {"qk_norm": True, "guidance_embed": True}])
def check_a_transformer(kernels, dtype, changes):
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(2, 32, 2, 3, generator=generator).to(dtype)
    context = torch.randn(2, 7, 96, generator=generator).to(dtype)
    network = tiny.transformer(**changes).to(dtype)
    guidance = {"guidance": torch.full((2,), 4.5)} if "guidance_embed" in changes else {}
    with torch.no_grad():
        found, plain = both(network, lambda: network(latent, torch.tensor([999.0, 250.0]), context, **guidance))
    assert 0 < choice.relative_error(found, plain) < TOLERANCE[dtype]
    assert {"linear_attention", "modulated_norm", "gated_residual_norm", "gated_depthwise"} <= used(kernels)


@dtypes
def check_an_autoencoder(kernels, dtype):
    network = tiny.autoencoder().to(dtype)
    latent = torch.randn(1, 32, 1, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = network.double().decode(latent.double())
    network.to(dtype)
    found, plain = both(network, lambda: network.decode(latent))
    assert not torch.equal(found, plain)
    assert choice.relative_error(found, exact) < 1.2 * choice.relative_error(plain, exact) + 1e-6
    assert {"rms_norm_2d", "gated_depthwise"} <= used(kernels)


def check_embedded(kernels):
    """Two steps of Sana-nano (twenty take the interpreter a quarter of an hour): the same picture."""
    pipeline = load_pipeline("nano", fast="off")
    found, plain = both(pipeline.transformer, lambda: pipeline("a red apple", seed=1, steps=2, output="tensor"))
    assert choice.relative_error(found, plain) < 1e-3

"""How far two results are apart, in the measure of all parity tests."""

import torch


def error(found, expected):
    """Largest difference over the root mean square of what is expected."""
    found, expected = found.double(), expected.double()
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float((found - expected).abs().max() / expected.square().mean().sqrt().clamp_min(1e-12))


def assert_agree(found, expected, tolerance):
    distance = error(found, expected)
    assert distance <= tolerance, f"max error over rms {distance:.2e}, allowed {tolerance:.0e}"
    assert torch.isfinite(expected).all()

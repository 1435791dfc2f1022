"""A rehearsal on a GPU that need not be there: every network at its real size and whole sampling loops, on fake CUDA
tensors, which have shapes and places but no values.

An operation on tensors of two devices raises, and so does whatever would make the host wait for the GPU: reading a
value, `if tensor`, a shape that depends on values. `Uploads` raises where a large tensor is made on the CPU.

Some builds of PyTorch, those for the CPU alone among them, cannot place even fake tensors on CUDA. There the device is
"lazy", which stands for any device that is not the CPU.
"""

from dataclasses import replace

import pytest
import tiny_text
import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.networks import AUTOENCODERS, fake_gpu
from sana_core.config import TextConfig
from sana_core.dcae.autoencoder import DCAE
from sana_core.kernels import choice
from sana_core.kit import Kit
from sana_core.pipeline.start import Start
from sana_core.presets import RELEASES
from sana_core.samplers.denoiser import make_denoiser
from sana_core.samplers.methods import SAMPLERS
from sana_core.text.gemma import GemmaTextEncoder
from sana_core.text.tokenizer import tokenizer_from_bytes
from sana_core.transformer.controlnet import ControlBranch, SanaControlNet
from sana_core.transformer.model import SanaTransformer

GPU = fake_gpu()
BF16, FP32 = torch.bfloat16, torch.float32
LARGEST = 128 * 2240  # elements of the largest tensor that may be made on the CPU: one axis of the 4K position table
BATCH, TOKENS, STEPS = 2, 77, 3
FULL, LITE = AUTOENCODERS["DC-AE 1.0, 1.1"], AUTOENCODERS["DC-AE Lite"]
DIFFERENT = {(release.config, release.native_size): release for release in reversed(RELEASES)}.values()
QUICK = ("Sana_Sprint_1.6B_1024px", "Sana_1600M_2Kpx_BF16")  # the others take as many seconds each


def marks(release):
    return [pytest.mark.slow] * (release.name not in QUICK)


releases = pytest.mark.parametrize(
    "release", [pytest.param(release, marks=marks(release), id=release.name) for release in DIFFERENT]
)


def made(network, *arguments, **options):
    """A network of bfloat16 weights on the GPU; the one place that knows how networks are built."""
    return network(*arguments, Kit(device=GPU, dtype=BF16), **options)


class Launches(TorchDispatchMode):
    """The names of the kernels of our own that ran."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "sana":
            self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


class Uploads(TorchDispatchMode):
    """Raises where an operation makes a tensor on the CPU that is too large to be sent in every step."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu":
                elements = tensor.untyped_storage().nbytes() // tensor.itemsize  # a view takes no memory
                assert elements <= LARGEST, f"{func} made {tuple(tensor.shape)} on the CPU"
        return result


@pytest.fixture
def fake():
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.fixture(params=["plain", "kernels"])
def gpu(request, monkeypatch):
    """Fake tensors, and the operations of PyTorch alone or with Triton's kernels as a GPU would get them."""
    if request.param == "kernels":
        pytest.importorskip("triton")
        monkeypatch.setattr(choice, "obstacle", lambda device: None)
    for operation in vars(choice.CHOSEN).values():
        monkeypatch.setattr(operation, "_fits", {})
    request.getfixturevalue("fake")
    with Launches() as launches:
        yield
    assert bool(launches.names) == (request.param == "kernels")


def empty(*shape, dtype=FP32):
    return torch.empty(shape, device=GPU, dtype=dtype)


def prompt():
    """Text states and their mask."""
    return empty(BATCH, TOKENS, 2304, dtype=BF16), empty(BATCH, TOKENS, dtype=torch.bool)


def sampled(release, method, *, start=None, **add_ons):
    """One run of a sampler, twice as high as wide, with guidance where the release takes it.

    start: given (x, denoise, first sigma), what the run begins with in place of noise; add_ons: of `make_denoiser`.
    """
    sampler, cells = SAMPLERS[method], release.native_size // 32
    with unset_fake_temporarily():
        sigmas = sampler.sigmas(STEPS, release.sampling.shift)
        first = sigmas[0].item()
    x = empty(BATCH, release.config.latent_channels, cells, cells // 2)
    denoise = make_denoiser(
        made(SanaTransformer, release.config), prompt(), prompt(), guidance_scale=4.5,
        truncate_timestep=sampler.truncate_timestep, **add_ons,
    )  # fmt: skip
    if start is not None:
        x, denoise = start(x, denoise, first)
    noise = {"step_noise": [torch.empty_like(x)] * STEPS} if sampler.step_noise else {}
    with Uploads():
        result = sampler.sample(denoise, x, sigmas, **noise)
    assert (result.device, result.shape, result.dtype) == (GPU, x.shape, FP32)


@releases
def test_a_run_as_released(gpu, release):
    sampled(release, release.sampling.sampler)


BASE = next(release for release in RELEASES if release.name == "Sana_1600M_1024px_BF16")


@pytest.mark.slow
def test_a_run_with_euler(gpu):
    sampled(BASE, "flow_euler")


@pytest.mark.slow
def test_a_run_with_perturbed_attention(gpu):
    sampled(BASE, "flow_dpm", pag_scale=2.0, pag_layers=(8,), pag_adaptive_scale=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["upstream", "diffusers"])
def test_a_run_with_a_controlnet(gpu, order):
    network = made(SanaControlNet, replace(BASE.config, depth=7), order=order, embedders=order == "diffusers")
    sampled(BASE, "flow_dpm", control=[ControlBranch(network, empty(1, 32, 32, 16), 0.5)])


@pytest.mark.slow
def test_a_run_that_redraws_a_part_of_a_picture(gpu):
    def start(x, denoise, sigma):
        redrawn = empty(1, 1, *x.shape[-2:])
        return Start(noise=x, step_noise=(), picture=torch.empty_like(x[:1]), redrawn=redrawn).begin(denoise, sigma)

    sampled(BASE, "flow_dpm", start=start)


@pytest.mark.parametrize("config", [FULL, LITE], ids=["full", "lite"])
@pytest.mark.parametrize("pixels, tile", [
    (1024, None), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2048, 512), (4096, 1024)))
])  # fmt: skip
def test_autoencoder(gpu, config, pixels, tile):
    network, cells = made(DCAE, config), pixels // 32
    with Uploads():
        image = network.decode(empty(1, 32, cells, cells, dtype=BF16), tile=tile)
        latent = network.encode(image, tile=tile)
    assert image.device == latent.device == GPU
    assert image.shape == (1, 3, pixels, pixels) and latent.shape == (1, 32, cells, cells)


@pytest.mark.skipif(
    not tiny_text.gemma_runs_on(GPU.type), reason=f"this PyTorch cannot run transformers' Gemma-2 on {GPU.type}"
)
def test_text_encoder(fake, spiece):
    shapes = GemmaTextEncoder(TextConfig()).model.state_dict()
    weights = {name: empty(*tensor.shape, dtype=BF16) for name, tensor in shapes.items()}
    network = GemmaTextEncoder(TextConfig(), tokenizer_from_bytes(spiece, "tiny"), weights)
    with Uploads():
        states, mask = network.encode(["a red apple", "a cat on a table"], instruction="default")
    assert states.device == mask.device == GPU and states.shape[::2] == (2, 2304)


@pytest.fixture(scope="module")
def spiece():
    return tiny_text.spiece()


# --- the rehearsal itself


def test_what_goes_wrong_on_a_gpu_shows(fake):
    x = empty(4)
    with pytest.raises(RuntimeError, match="device"):
        x + torch.ones(4)
    with pytest.raises(Exception, match=r"_local_scalar_dense|[Dd]ata.?[Dd]ependent"):
        x.sum().item()
    with pytest.raises(AssertionError, match="on the CPU"), Uploads():
        torch.zeros(LARGEST + 1).to(GPU)

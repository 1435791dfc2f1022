"""Files that ComfyUI saves are recognised again; live previews arrive; what cannot work is refused with one clear
message.
"""

import json

import numpy as np
import pytest
import torch
from e2e.client import ENDS, PREVIEW, Client
from e2e.graphs import Parts
from e2e.server import PACK, ExecutionFailed, Graph, PromptRefused
from PIL import Image
from safetensors.torch import save_file


def run_and_find(server, g, kind, prefix):
    """Run a graph that saves a model; the name under which the loaders offer the file."""
    server.run(g)
    (path,) = (server.base / "output" / kind).glob(f"{prefix}_*.safetensors")
    return path.name


def picture(server, build):
    g = Graph()
    return server.pictures(g, build(g))


@pytest.fixture(scope="module")
def expected(server):
    return picture(server, lambda g: Parts(g).picture())


def same(found, expected):
    return np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_model_save(server, expected):
    g = Graph()
    g.add("ModelSave", model=Parts(g).model, filename_prefix="diffusion_models/again")
    name = run_and_find(server, g, "diffusion_models", "again")
    assert same(picture(server, lambda g: Parts(g, name).picture()), expected)


def test_model_save_keeps_the_position_class(server):
    g = Graph()
    g.add("ModelSave", model=Parts(g, "sana_2k.pth").model, filename_prefix="diffusion_models/again2k")
    name = run_and_find(server, g, "diffusion_models", "again2k")
    first, again = (picture(server, lambda g, name=name: Parts(g, name).picture()) for name in ("sana_2k.pth", name))
    assert same(again, first)
    assert not same(first, picture(server, lambda g: Parts(g).picture()))


def test_vae_save(server, expected):
    g = Graph()
    g.add("VAESave", vae=Parts(g, vae="dcae_mit.safetensors").vae, filename_prefix="vae/again")
    name = run_and_find(server, g, "vae", "again")
    assert same(picture(server, lambda g: Parts(g, vae=name).picture()), expected)


def test_checkpoint_save(server, expected):
    g = Graph()
    parts = Parts(g)
    g.add("CheckpointSave", model=parts.model, clip=parts.clip, vae=parts.vae, filename_prefix="checkpoints/again")
    name = run_and_find(server, g, "checkpoints", "again")

    def build(g):
        parts = Parts(g)
        loader = g.add("CheckpointLoaderSimple", ckpt_name=name)
        parts.positive = g.add("CLIPTextEncode", clip=loader[1], text="a red apple on a wooden table")
        parts.vae = loader[2]
        return parts.picture(model=loader[0])

    assert same(picture(server, build), expected)


def test_previews(server):
    client, g = Client(server, "previews"), Graph()
    g.add("SaveImage", images=Parts(g).picture(seed=1234, steps=4), filename_prefix="p")
    assert client.wait(ENDS, client.queue(g)) == "execution_success"
    assert len(client.binary(PREVIEW)) == 4  # one picture per step


def test_the_pack_is_listed_with_its_nodes(server):
    info = server.get("/object_info")
    own = {name: node for name, node in info.items() if name.startswith("SanaNative")}
    assert set(own) == {page.stem for page in (PACK / "js" / "docs").glob("*.md")}
    assert {node["category"].split("/")[0] for node in own.values()} == {"SANA"}
    assert "sana.safetensors" in json.dumps(own["SanaNativeLoad"]["input"]["required"]["model"])
    assert "IMPORT FAILED" not in server.output() and "Error while calling comfy_entrypoint" not in server.output()


def load_sana(g, **changes):
    files = {"model": "sana.safetensors", "text_encoder": "gemma.safetensors", "vae": "dcae.safetensors"}
    return g.add("SanaNativeLoad", **{**files, "native_size": "auto", "weight_dtype": "default", **changes})


def refused(server, build):
    """The message of a graph that must not run."""
    g = Graph()
    with pytest.raises(ExecutionFailed) as raised:
        server.pictures(g, build(g))
    return str(raised.value)


@pytest.fixture(scope="module")
def wrong_files(server, tmp_path_factory):
    """Files of other models in SANA's folders, and damaged ones."""
    models = server.base / "models"
    transformer, vae = models / "diffusion_models", models / "vae"
    save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2, 2)}, transformer / "flux.safetensors")
    save_file(
        {"input_blocks.0.0.weight": torch.zeros(2, 2), "output_blocks.0.0.weight": torch.zeros(2, 2)},
        transformer / "sd.safetensors",
    )
    (transformer / "cut.safetensors").write_bytes((transformer / "sana.safetensors").read_bytes()[:9000])
    (transformer / "page.safetensors").write_text("<!DOCTYPE html><html></html>")
    header = json.dumps(
        {"patch_embed.proj.weight": {"dtype": "F32", "shape": [224, 32, 1, 1], "data_offsets": [0, 10**9]}}
    ).encode()
    (transformer / "lying.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 100)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "code": Runs(server.base / "it_ran")}, transformer / "code.pth")
    for name, target in (
        ("sana.safetensors", vae / "sana_in_vae.safetensors"),
        ("sana.safetensors", models / "text_encoders" / "sana_in_text.safetensors"),
    ):
        target.write_bytes((transformer / name).read_bytes())
    (transformer / "vae_in_model.safetensors").write_bytes((vae / "dcae.safetensors").read_bytes())
    return server.base


class Runs:
    """A pickle that writes a file when it is opened the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("choice, said", [
    ({"model": "flux.safetensors"}, "expected a SANA transformer, found a Flux model"),
    ({"model": "sd.safetensors"}, "expected a SANA transformer, found a Stable Diffusion"),
    ({"model": "vae_in_model.safetensors"}, "expected a SANA transformer, found a DC-AE autoencoder"),
    ({"model": "cut.safetensors"}, "truncated or damaged"),
    ({"model": "lying.safetensors"}, "truncated or damaged"),
    ({"model": "page.safetensors"}, "a web page"),
    ({"model": "code.pth"}, "Python objects besides tensors"),
    ({"vae": "sana_in_vae.safetensors"}, "expected the DC-AE autoencoder of SANA, found a SANA transformer"),
    ({"text_encoder": "sana_in_text.safetensors"}, "found a SANA transformer"),
    ({"text_encoder": "gemma_without_tokenizer.safetensors"}, "without tokenizer"),
])  # fmt: skip
def test_wrong_files(server, wrong_files, choice, said):
    def build(g):
        loader = load_sana(g, **choice)
        latent = g.add(
            "SanaNativeGenerate",
            model=loader[0],
            clip=loader[1],
            prompt="a",
            negative_prompt="",
            width=64,
            height=64,
            seed=0,
            steps=1,
            cfg=1.0,
            denoise=1.0,
        )
        return g.add("VAEDecode", samples=latent, vae=loader[2])

    message = refused(server, build)
    assert said in message and next(iter(choice.values())) in message
    assert not (wrong_files / "it_ran").exists()


def test_a_damaged_file_in_the_hosts_own_loader(server):
    tensors = {key: tensor for key, tensor in load(server, "sana.safetensors").items() if key != "caption_norm.weight"}
    save_file(tensors, server.base / "models" / "diffusion_models" / "damaged.safetensors")
    assert "1 missing (caption_norm.weight)" in refused(server, lambda g: Parts(g, "damaged.safetensors").picture())


def load(server, name):
    from safetensors.torch import load_file

    return load_file(server.base / "models" / "diffusion_models" / name)


def test_latents_of_another_model(server):
    save_file(
        {"noise": torch.ones(1, 16, 4, 4), "positive": torch.ones(1, 3, 48), "negative": torch.ones(1, 3, 48)},
        server.base / "wide.safetensors",
    )
    save_file(
        {"latent_tensor": torch.ones(1, 16, 4, 4), "latent_format_version_0": torch.tensor([])},
        server.base / "input" / "wide.latent",
    )

    def sample(g):
        return Parts(g).picture(latent_image=g.add("LoadLatent", latent="wide.latent"))

    def decode(g):
        parts = Parts(g)
        return g.add("VAEDecode", samples=g.add("LoadLatent", latent="wide.latent"), vae=parts.vae)

    assert "SANA takes latents (B, 32, h, w), got (B, 16, 4, 4)" in refused(server, sample)
    assert "decodes latents (B, 32, h, w), got (1, 16, 4, 4)" in refused(server, decode)


def test_a_picture_smaller_than_a_latent_cell(server):
    Image.new("RGB", (200, 31)).save(server.base / "input" / "small.png")
    for node, settings in (
        ("VAEEncode", {}),
        ("VAEEncodeTiled", {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}),
    ):

        def encode(g, node=node, settings=settings):
            parts = Parts(g)
            encoded = g.add(node, pixels=g.add("LoadImage", image="small.png"), vae=parts.vae, **settings)
            return g.add("VAEDecode", samples=encoded, vae=parts.vae)

        assert "encodes pictures of at least 32 x 32 pixels: enlarge this one" in refused(server, encode)


def test_the_empty_clip_of_a_lora_without_clip(server):
    def encode(g):
        parts = Parts(g)
        lora = g.add(
            "SanaNativeLoadLora", model=parts.model, lora_name="lora.safetensors", strength_model=1.0, strength_clip=1.0
        )
        return parts.picture(positive=g.add("SanaNativeTextEncode", clip=lora[1], text="a cat", instruction="upstream"))

    assert "there is no CLIP: connect the one of Load SANA, at Load SANA LoRA too" in refused(server, encode)


@pytest.mark.parametrize(
    "node, settings",
    [
        ("ModelSamplingAuraFlow", {"shift": 3.0}),
        ("ModelSamplingDiscrete", {"sampling": "v_prediction", "zsnr": False}),
        ("ModelSamplingFlux", {"max_shift": 1.15, "base_shift": 0.5, "width": 128, "height": 96}),
    ],
)
def test_the_noise_schedule_of_another_kind_of_model(server, node, settings):
    def replaced(g):
        parts = Parts(g)
        return parts, g.add(node, model=parts.model, **settings)

    def with_ksampler(g):
        parts, model = replaced(g)
        return parts.picture(model=model)

    def with_sigmas(g):
        parts, model = replaced(g)
        sigmas = g.add("SanaNativeSigmas", model=model, schedule="flow_dpm", steps=2, shift=0.0, denoise=1.0)
        guider = g.add("CFGGuider", model=model, positive=parts.positive, negative=parts.negative, cfg=2.0)
        nodes = {"noise": g.add("RandomNoise", noise_seed=1), "sampler": g.add("SanaNativeSampler", sampler="flow_dpm")}
        run = g.add("SamplerCustomAdvanced", guider=guider, sigmas=sigmas, latent_image=parts.latent, **nodes)
        return g.add("VAEDecode", samples=run, vae=parts.vae)

    for build in (with_ksampler, with_sigmas):
        assert "the noise schedule of another kind of model" in refused(server, build)


def test_sizes(server):
    def custom(g):
        latent = g.add(
            "SanaNativeEmptyLatent", resolution="custom", resolution__width=100, resolution__height=64, batch_size=1
        )
        return Parts(g, latent=latent).picture()

    assert "width of 100 x 64 must be a positive multiple of 32; nearest sizes in pixels: 96 or 128 wide" in refused(
        server, custom
    )


def test_sizes_out_of_range_never_start(server):
    g = Graph()
    latent = g.add(
        "SanaNativeEmptyLatent", resolution="custom", resolution__width=0, resolution__height=-32, batch_size=1
    )
    picture = Parts(g, latent=latent).picture()
    with pytest.raises(PromptRefused, match="smaller than min of 32"):
        server.pictures(g, picture)


def test_text_of_another_encoder(server):
    save_file(
        {"noise": torch.ones(1, 32, 3, 4), "positive": torch.ones(1, 77, 768), "negative": torch.ones(1, 77, 768)},
        server.base / "clip.safetensors",
    )

    def build(g):
        tensors = g.add("TestTensors", path=str(server.base / "clip.safetensors"))
        return Parts(g).picture(positive=tensors[1], negative=tensors[2])

    assert "the text states are 768 wide, this SANA model takes 48" in refused(server, build)


def test_a_broken_file_does_not_stop_the_next_prompt(server, wrong_files, expected):
    refused(server, lambda g: Parts(g, "flux.safetensors").picture())
    assert same(picture(server, lambda g: Parts(g).picture()), expected)

"""Workflows of ComfyUI_ExtraModels: one click in the editor replaces their nodes, ComfyUI does so in API prompts, and
they draw.
"""

import shutil

import pytest
from e2e.browser import SECONDS, UNKNOWN, closing_page, needs_browser, open_editor
from e2e.old_workflows import FILES, PROMPT, WORKFLOWS
from e2e.server import ExecutionFailed, Graph, PromptRefused
from PIL import Image
from workflows.installed import serve

from sana_core.presets import TEXT_ENCODER

LOAD = "workflow => app.loadGraphData(workflow, true, true)"
EXPORT = "() => app.graphToPrompt().then(prompt => prompt.output)"
SAVED = "() => app.nodeOutputs[app.rootGraph.nodes.find(node => node.type === 'SaveImage').id]?.images?.[0]"
NEAR = """() => {
    const { pos } = app.rootGraph.nodes.find(node => node.type === 'SanaNativeTextEncode'), view = app.canvas.ds;
    view.scale = 1;
    view.offset = [300 - pos[0], 200 - pos[1]];
    app.canvas.setDirty(true, true);
}"""
GEMMA = TEXT_ENCODER.local_name
SIZES = {"Sprint": (512, 512)}  # of the others: (608, 416)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    with serve(base) as running:
        for name, source in FILES.items():
            target = base / "models" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(base / "models" / source, target)
        yield running


def by_type(prompt):
    found = {}
    for node in prompt.values():
        found.setdefault(node["class_type"], []).append(node["inputs"])
    return found


@needs_browser
@pytest.mark.parametrize("name", WORKFLOWS)
def test_replace_all_and_run(browser, server, name):
    with closing_page(browser) as page:
        open_editor(page, server)
        page.evaluate(LOAD, WORKFLOWS[name])
        page.get_by_test_id("error-overlay-see-errors").click()
        page.get_by_text("Replace All").first.click()
        page.wait_for_function(f"() => ({UNKNOWN})().length === 0")
        page.evaluate(NEAR)
        page.wait_for_timeout(0.5 * SECONDS)  # it is drawn
        box = page.locator("textarea:visible").first
        assert box.input_value() == PROMPT and box.bounding_box()["height"] > 100
        box.fill(f"{PROMPT} at night")
        page.evaluate("app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        found = by_type(page.evaluate(EXPORT))
        positive = found["SanaNativeTextEncode"][0]
        assert (positive["text"], positive["instruction"]) == (f"{PROMPT} at night", "upstream")
        assert found["SanaNativeLoadModel"][0]["model"].startswith("Efficient-Large-Model/Sana")
        assert found["SanaNativeResolution"][0]["ratio"] == ("1.00" if name == "Sprint" else "1.46")
        page.get_by_test_id("queue-button").click()
        page.wait_for_function(SAVED)
        saved = page.evaluate(SAVED)
        path = server.base / saved["type"] / saved["subfolder"] / saved["filename"]
        assert Image.open(path).size == SIZES.get(name, (608, 416))


@needs_browser
def test_gemma_is_offered_for_download_after_replace_all(browser, server):
    def without_gemma(route):
        infos = route.fetch().json()
        options = infos["SanaNativeLoadTextEncoder"]["input"]["required"]["text_encoder"][1]
        options["options"] = [option for option in options["options"] if option != GEMMA]
        route.fulfill(json=infos)

    with closing_page(browser) as page:
        page.route("**/object_info", without_gemma)
        open_editor(page, server)
        page.evaluate(LOAD, WORKFLOWS["Sana_FlowEuler"])
        page.get_by_test_id("error-overlay-see-errors").click()
        page.get_by_text("Replace All").first.click()
        page.wait_for_function(f"() => ({UNKNOWN})().length === 0")
        page.get_by_text("Errors", exact=True).first.click()  # as soon as the message of success is gone
        page.get_by_text("Download all").first.wait_for()
        page.get_by_text(GEMMA).first.wait_for()
        offered = page.evaluate(
            "() => app.rootGraph.nodes.find(node => node.type === 'SanaNativeLoadTextEncoder').properties.models"
        )
        assert offered == [{"name": GEMMA, "url": TEXT_ENCODER.url, "directory": TEXT_ENCODER.directory}]


def old_prompt(
    g,
    checkpoint="Efficient-Large-Model/Sana_1600M_1024px_MultiLing",
    vae="mit-han-lab/dc-ae-f32c32-sana-1.1V-diffusers",
):
    """As a script would have sent it to ComfyUI_ExtraModels. Returns the IMAGE."""
    loader = g.add("GemmaLoader", model_name="unsloth/gemma-2-2b-it-bnb-4bit", device="cpu", dtype="default")
    conditioning = {
        "positive": g.add("SanaTextEncode", text=PROMPT, GEMMA=loader),
        "negative": g.add("GemmaTextEncode", text="", GEMMA=loader),
    }
    samples = g.add(
        "KSampler",
        model=g.add(
            "SanaCheckpointLoader",
            ckpt_name=checkpoint,
            model="SanaMS_1600M_P1_D20",
            dtype="FP16",
            enable_cfg_passthrough=True,
        ),
        latent_image=g.add("EmptySanaLatentImage", width=96, height=64, batch_size=2),
        **{
            "seed": 1,
            "steps": 2,
            "cfg": 4.5,
            "sampler_name": "euler",
            "scheduler": "normal",
            "denoise": 1.0,
            **conditioning,
        },
    )
    decoder = g.add("ExtraVAELoader", vae_name=vae, vae_type="dcae-f32c32-sana-1.1-diffusers", dtype="BF16")
    return g.add("VAEDecode", samples=samples, vae=decoder)


def drawn(server, build):
    g = Graph()
    image = build(g)
    return server.files(g, g.add("SaveImage", images=image, filename_prefix="p"))


def test_a_prompt_for_the_api_runs_as_it_is(server):
    assert len(drawn(server, old_prompt)) == 2


def test_lightnings_nodes(server):
    def build(g):
        loader = g.add("SanaCLIPLoader", model_name="gemma-2-2b-it", max_length=300, device="cpu", dtype="auto")
        prompts = [g.add("SanaTextEncode", text=text, GEMMA=loader) for text in (PROMPT, "")]
        model = g.add(
            "SanaDiffusionLoader",
            model_name="sana.safetensors",
            model_type="any",
            weight_dtype="fp8_e4m3fn",
            convert_model_dtype=True,
        )
        samples = g.add(
            "KSampler",
            model=model,
            positive=prompts[0],
            negative=prompts[1],
            latent_image=g.add("SanaEmptyLatentImage", width=64, height=64, batch_size=1),
            **{"seed": 1, "steps": 1, "cfg": 4.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0},
        )
        return g.add(
            "VAEDecode", samples=samples, vae=g.add("SanaVAELoader", model_name="dcae.safetensors", dtype="fp32")
        )

    assert len(drawn(server, build)) == 1


@pytest.mark.parametrize("change, said", [
    (
        {"checkpoint": "Efficient-Large-Model/SANA1.5_4.8B_1024px"},
        "download "
        "https://huggingface.co/Efficient-Large-Model/SANA1.5_4.8B_1024px/resolve/main/"
        "checkpoints/SANA1.5_4.8B_1024px.pth "
        "and save it there as SANA1.5_4.8B_1024px.pth",
    ),
    (
        {"vae": "mit-han-lab/dc-ae-lite-f32c32-sana-1.1-diffusers"},
        "its file is not in models/vae: download "
        "https://huggingface.co/mit-han-lab/dc-ae-lite-f32c32-sana-1.1-diffusers/resolve/main/"
        "diffusion_pytorch_model.safetensors and save it there as sana_dc_ae_lite_f32c32_1.1.safetensors",
    ),
])  # fmt: skip
def test_a_published_name_whose_file_is_not_there(server, change, said):
    with pytest.raises(ExecutionFailed) as raised:
        drawn(server, lambda g: old_prompt(g, **change))
    assert said in str(raised.value)


def test_an_unknown_name_never_starts(server):
    with pytest.raises(
        PromptRefused, match=r"there is no somebodys\.safetensors in models/diffusion_models: choose another file"
    ):
        drawn(server, lambda g: old_prompt(g, checkpoint="somebodys.safetensors"))

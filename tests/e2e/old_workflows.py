"""Workflows of ComfyUI_ExtraModels in the editor's format: the same nodes, links and kinds of values as upstream's
published ones have.
"""

# Per node type: inputs {name: type}, of which those in WIDGET_INPUTS are widgets made into sockets, and outputs {name:
# type}.
NODES = {
    "SanaResolutionSelect": ({}, {"width": "INT", "height": "INT"}),
    "EmptyDCAELatentImage": ({"width": "INT", "height": "INT"}, {"LATENT": "LATENT"}),
    "EmptySanaLatentImage": ({"width": "INT", "height": "INT"}, {"LATENT": "LATENT"}),
    "GemmaLoader": ({}, {"GEMMA": "GEMMA"}),
    "SanaTextEncode": ({"GEMMA": "GEMMA"}, {"CONDITIONING": "CONDITIONING"}),
    "GemmaTextEncode": ({"GEMMA": "GEMMA"}, {"CONDITIONING": "CONDITIONING"}),
    "SanaCheckpointLoader": ({}, {"model": "MODEL"}),
    "ExtraVAELoader": ({}, {"VAE": "VAE"}),
    "SanaResolutionCond": ({"cond": "CONDITIONING"}, {"cond": "CONDITIONING"}),
    "ScmModelSampling": ({"model": "MODEL"}, {"MODEL": "MODEL"}),
    "KSampler": (
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"},
        {"LATENT": "LATENT"},
    ),
    "VAEDecode": ({"samples": "LATENT", "vae": "VAE"}, {"IMAGE": "IMAGE"}),
    "SaveImage": ({"images": "IMAGE"}, {}),
}
WIDGET_INPUTS = ("width", "height")
PROMPT = 'a logo that says "So Fast" with a flying dragon'


class Workflow:
    def __init__(self):
        self.nodes, self.links = [], []

    def add(self, kind, widgets=(), **sources):
        """A node; its sources are nodes or (node, output index). Returns its place."""
        inputs, outputs = NODES[kind]
        node = {
            "id": len(self.nodes) + 1, "type": kind, "pos": [400 * len(self.nodes), 0], "size": [315, 106],
            "flags": {}, "mode": 0,
            "order": len(self.nodes), "properties": {"Node name for S&R": kind}, "widgets_values": list(widgets),
            "inputs": [{"name": name, "type": type_, "link": None} for name, type_ in inputs.items()],
            "outputs": [
                {"name": name, "type": type_, "links": [], "slot_index": i}
                for i, (name, type_) in enumerate(outputs.items())
            ],
        }  # fmt: skip
        self.nodes.append(node)
        for slot, entry in enumerate(node["inputs"]):
            if entry["name"] in WIDGET_INPUTS:
                entry["widget"] = {"name": entry["name"]}
            source = sources.get(entry["name"])
            origin, output = source if isinstance(source, tuple) else (source, 0)
            entry["link"] = len(self.links) + 1
            self.links.append([entry["link"], origin["id"], output, node["id"], slot, entry["type"]])
            origin["outputs"][output]["links"].append(entry["link"])
        return node

    def as_json(self):
        return {
            "last_node_id": len(self.nodes), "last_link_id": len(self.links), "nodes": self.nodes, "links": self.links,
            "groups": [], "config": {}, "extra": {}, "version": 0.4,
        }  # fmt: skip


def flow_euler(
    checkpoint, latent="EmptyDCAELatentImage", negative="SanaTextEncode", gemma="Efficient-Large-Model/gemma-2-2b-it"
):
    """The structure of Sana_FlowEuler, of its 2K and 4K versions, and of the SANA part of Sana_CogVideoX, at a small
    size.
    """
    w = Workflow()
    size = w.add("SanaResolutionSelect", ["512px", "1.46"])
    empty = w.add(latent, [512, 512, 1], width=(size, 0), height=(size, 1))
    loader = w.add("GemmaLoader", [gemma, "cuda", "BF16"])
    positive = w.add("SanaTextEncode", [PROMPT], GEMMA=loader)
    negative = w.add(negative, ['""'], GEMMA=loader)
    vae = w.add(
        "ExtraVAELoader", ["mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers", "dcae-f32c32-sana-1.0-diffusers", "BF16"]
    )
    model = w.add("SanaCheckpointLoader", [f"Efficient-Large-Model/{checkpoint}", "SanaMS_1600M_P1_D20", "BF16"])
    samples = w.add(
        "KSampler",
        [7, "fixed", 2, 4.5, "euler", "normal", 1],
        model=model,
        positive=positive,
        negative=negative,
        latent_image=empty,
    )
    w.add("SaveImage", ["old"], images=w.add("VAEDecode", samples=samples, vae=vae))
    return w.as_json()


def sprint():
    """With the nodes that only SANA-Sprint's workflows have."""
    w = Workflow()
    size = w.add("SanaResolutionSelect", ["512px", "1.00"])
    empty = w.add("EmptySanaLatentImage", [512, 512, 1], width=(size, 0), height=(size, 1))
    loader = w.add("GemmaLoader", ["Efficient-Large-Model/gemma-2-2b-it", "cuda", "BF16"])
    positive = w.add("SanaTextEncode", [PROMPT], GEMMA=loader)
    sized = w.add("SanaResolutionCond", [1024, 1024], cond=positive)
    negative = w.add("GemmaTextEncode", [""], GEMMA=loader)
    vae = w.add(
        "ExtraVAELoader", ["mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers", "dcae-f32c32-sana-1.1-diffusers", "FP32"]
    )
    model = w.add(
        "SanaCheckpointLoader",
        ["Efficient-Large-Model/Sana_Sprint_1.6B_1024px", "SanaSprint_1600M_P1_D20", "FP32", True],
    )
    scm = w.add("ScmModelSampling", [4.5, False], model=model)
    samples = w.add(
        "KSampler",
        [7, "fixed", 2, 1, "lcm", "simple", 1],
        model=scm,
        positive=sized,
        negative=negative,
        latent_image=empty,
    )
    w.add("SaveImage", ["old"], images=w.add("VAEDecode", samples=samples, vae=vae))
    return w.as_json()


WORKFLOWS = {
    "Sana_FlowEuler": flow_euler("Sana_1600M_1024px_MultiLing"),
    "Sana_FlowEuler_2K": flow_euler("Sana_1600M_2Kpx_BF16", latent="EmptySanaLatentImage", negative="GemmaTextEncode"),
    "Sana_FlowEuler_4K": flow_euler("Sana_1600M_4Kpx_BF16", latent="EmptySanaLatentImage", negative="GemmaTextEncode"),
    "Sana_CogVideoX": flow_euler("Sana_1600M_1024px_MultiLing", gemma="google/gemma-2-2b-it"),
    "Sprint": sprint(),
}
SPRINT_FOLDER = "models--sana--sana-sprint-1600m-1024px"
AUTOENCODER_FOLDER = "models--mit-han-lab--dc-ae-f32c32-sana-1.0-diffusers"
FILES = {  # of these workflows -> tiny files of the same kind and layout
    "diffusion_models/Sana_1600M_1024px_MultiLing.pth": "diffusion_models/sana.pth",
    "diffusion_models/Sana_1600M_2Kpx_BF16.pth": "diffusion_models/sana_2k.pth",
    "diffusion_models/Sana_1600M_4Kpx_BF16.safetensors": "diffusion_models/sana.safetensors",
    f"diffusion_models/{SPRINT_FOLDER}/checkpoints/Sana_Sprint_1.6B_1024px.pth": "diffusion_models/sprint.pth",
    "text_encoders/gemma_2_2b_fp16.safetensors": "text_encoders/gemma.safetensors",
    f"vae/{AUTOENCODER_FOLDER}/diffusion_pytorch_model.safetensors": "vae/dcae.safetensors",
    "vae/dc-ae-f32c32-sana-1.1.safetensors": "vae/dcae_mit.safetensors",
}

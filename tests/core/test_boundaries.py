"""The import rules of the package, read from the syntax trees."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "sana_core"
ALLOWED = {"torch", "safetensors", "numpy", "PIL"}
LAZY = {
    "text": {"transformers", "sentencepiece", "tokenizers"},
    "quantised": {"comfy_kitchen"},
    "quantiser": {"comfy_kitchen"},
    "doctor": {"psutil", "yaml"},
    "verify": {"diffusers", "transformers"},
    "scoring": {"transformers"},
    "training": {"accelerate", "bitsandbytes", "filelock", "yaml"},
    "metrics": {"torch_fidelity", "torchmetrics", "transformers"},
    "batch": {"filelock", "pyarrow", "ray"},
    "cli": {"tqdm", "huggingface_hub"},
}  # inside functions, in these parts only
FORBIDDEN = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "latent_preview"}
LAYERS = (  # a part may import from itself and from what stands before it
    {"errors", "interrupts", "seeds", "shortage", "whole_files"},
    {"geometry", "device", "kernels", "live_memory"},
    {"config"},
    {"presets", "latents", "kit", "styles"},
    {"precision"},
    {"transformer", "dcae", "samplers", "text", "checkpoint", "quantised"},
    {"pictures", "sources", "lora", "fast"},
    {"pipeline"},
    {"prompts"},
    {"quantiser", "doctor"},
    {"scoring"},
    {"verify", "training"},
    {"safety", "metrics"},
    {"batch"},
    {"cli"},
    {"__main__", "__init__"},
)
APART = {"transformer", "dcae", "samplers"}  # these do not import one another
LEAVES = {f"checkpoint/{path.name}" for path in (CORE / "checkpoint").glob("*.py")} - {
    "checkpoint/load.py"
}  # import no network

TRITON = CORE / "kernels" / "triton"
FILES = sorted(CORE.rglob("*.py"))


def imports(path):
    """(module, level, is at the top of the file) for every import in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0, node in tree.body) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level, node in tree.body


def part(path):
    return path.relative_to(CORE).parts[0].removesuffix(".py")


def imported_parts(path):
    """First-level parts of sana_core that a file imports from."""
    for module, level, _ in imports(path):
        if level:
            base = path.relative_to(CORE).parent.parts
            target = [*base[: len(base) - level + 1], *filter(None, module.split("."))]
            if target:
                yield target[0]


def layer(name):
    return next(index for index, parts in enumerate(LAYERS) if name in parts)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_imports(path):
    place = path.relative_to(CORE).parts[0]
    for module, level, top in imports(path):
        root = module.split(".")[0]
        if level or root in sys.stdlib_module_names:
            continue
        assert root not in FORBIDDEN, f"{path} imports {module}: sana_core runs without ComfyUI"
        assert root != "sana_core", f"{path} imports {module} absolutely: the package has another name inside ComfyUI"
        allowed = ALLOWED | {"triton"} if TRITON in path.parents else ALLOWED
        assert root in allowed or (root in LAZY.get(place, ()) and not top), f"{path} imports {module}"


def test_triton_is_imported_where_it_is_used():
    """Nothing imports the folder of its kernels; `kernels/choice.py` finds them by their names at the first use."""
    for path in FILES:
        if TRITON not in path.parents:
            assert not [module for module, _, _ in imports(path) if "triton" in module.split(".")], path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers(path):
    own = part(path)
    for other in set(imported_parts(path)) - {own}:
        assert layer(other) <= layer(own), f"{path}: {own} must not import {other}"
        assert not {own, other} <= APART, f"{path}: {own} and {other} stay apart"
        if str(path.relative_to(CORE)) in LEAVES:
            leaves = {"errors", "shortage", "config", "geometry", "presets", "precision", "quantised", "whole_files"}
            assert other in leaves, f"{path} must not import {other}"


def test_relative_imports_in_the_nodes():
    """Nodes reach sana_core and one another by relative imports; only the bridge touches comfy.*"""
    for path in sorted((ROOT / "nodes").rglob("*.py")):
        for module, level, _ in imports(path):
            root = module.split(".")[0]
            assert level or root not in {"nodes", "sana_core"}, f"{path} imports {module} absolutely"
            if "bridge" not in path.parts:
                assert root not in {"comfy", "folder_paths"}, f"{path} imports {module}: only nodes/bridge may"


def test_source_is_ascii():
    for path in [*FILES, *(ROOT / "nodes").rglob("*.py"), ROOT / "__init__.py"]:
        assert path.read_bytes().isascii(), f"{path} has characters outside ASCII, which some Windows tools cannot read"

"""The Python packages that the pack uses, and what for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Package:
    """A package by its name for pip. purpose: what it is for.  needed: nothing is drawn without it."""

    name: str
    purpose: str
    needed: bool = False
    other_names: tuple[str, ...] = ()

    @property
    def version(self) -> str | None:
        """What is installed, None if nothing is."""
        for name in (self.name, *self.other_names):
            try:
                return version(name)
            except PackageNotFoundError:
                continue
        return None


PACKAGES = (
    Package("transformers", "Gemma-2, the text encoder", needed=True),
    Package("safetensors", "model files", needed=True),
    Package("sentencepiece", "Gemma's tokenizer", needed=True),
    Package("numpy", "pictures", needed=True),
    Package("Pillow", "pictures", needed=True),
    Package("tqdm", "progress bars", needed=True),
    Package("triton", "fused kernels on NVIDIA cards", other_names=("triton-windows", "pytorch-triton")),
    Package("comfy-kitchen", "making int8, fp8 and nvfp4 files, and their fast products on NVIDIA cards"),
    Package("huggingface_hub", "downloading released models"),
    Package("diffusers", "the reference of verify"),
    Package("accelerate", "diffusers loads faster with it"),
    Package("peft", "the tests of LoRA; LoRA files are read without it"),
    Package("gguf", "the tests of GGUF; GGUF files are read without it"),
)


def installed() -> dict[str, str | None]:
    """Versions by name, None for what is not installed."""
    return {package.name: package.version for package in PACKAGES}


def lines(versions: dict[str, str | None]) -> list[str]:
    """A line for each: what is missing says what it is for."""
    said = []
    for package in PACKAGES:
        found = versions.get(package.name)
        state = found or ("MISSING, and needed" if package.needed else "not installed")
        said.append(f"{package.name:16} {state:20} {package.purpose}")
    return said

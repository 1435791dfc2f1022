"""The released models by short names, and where their files may be on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..checkpoint.load import load_autoencoder
from ..errors import InputError, SanaError
from ..presets import AUTOENCODERS, RELEASES, TEXT_ENCODER, PublishedFile, Release
from ..sources import EMBEDDED
from .output import say, say_json, tell

MODELS = {
    "sana-0.6b-512": "Sana_600M_512px",
    "sana-0.6b": "Sana_600M_1024px",
    "sana-1.6b-512": "Sana_1600M_512px",
    "sana-1.6b-512-multiling": "Sana_1600M_512px_MultiLing",
    "sana-1.6b-fp16": "Sana_1600M_1024px",
    "sana-1.6b-multiling": "Sana_1600M_1024px_MultiLing",
    "sana-1.6b": "Sana_1600M_1024px_BF16",
    "sana-1.6b-2k": "Sana_1600M_2Kpx_BF16",
    "sana-1.6b-4k": "Sana_1600M_4Kpx_BF16",
    "sana-1.5-1.6b": "SANA1.5_1.6B_1024px",
    "sana-1.5-4.8b": "SANA1.5_4.8B_1024px",
    "sana-sprint-0.6b": "Sana_Sprint_0.6B_1024px",
    "sana-sprint-1.6b": "Sana_Sprint_1.6B_1024px",
}
AUTOENCODER = AUTOENCODERS[0]
BESIDE = {"autoencoder": AUTOENCODER, "text_encoder": TEXT_ENCODER}  # what every model needs
OLD_FOLDERS = {"diffusion_models": "unet", "text_encoders": "clip"}  # as older versions of ComfyUI call them


def release(name: str) -> Release:
    """By its short name, or by its own. Raises InputError."""
    wanted = MODELS.get(name.lower(), name).lower()
    found = next((release for release in RELEASES if release.name.lower() == wanted), None)
    if found is None:
        raise InputError(f'there is no model "{name}", expected one of {", ".join((*EMBEDDED, *MODELS))}')
    return found


def parts(model: Release) -> dict[str, PublishedFile]:
    """The files a model needs, by the part of the pipeline."""
    return {"transformer": model, **BESIDE}


def unstated(model: Release) -> tuple[str, str]:
    """The options --variant and --trained-precision for its file."""
    size = model.native_size
    return f"{size // 1024}k" if size > 1024 else str(size), str(model.dtype).removeprefix("torch.")


def local_file(file: PublishedFile, models_dir: Path | None) -> Path | None:
    """The file where ComfyUI has it below its models folder, or in the cache of huggingface_hub."""
    if models_dir is not None:
        for path in _in_comfyui(file, models_dir):
            if path.is_file() and not (_is_anybodys(path) and not _is_autoencoder(path)):
                return path
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    found = try_to_load_from_cache(file.repository, file.file, cache_dir=models_dir)
    return Path(found) if isinstance(found, str) else None


def list_models(models_dir: Path | None, *, as_json: bool) -> None:
    """A line or a JSON object for each model on stdout."""
    beside = {part: local_file(file, models_dir) is not None for part, file in BESIDE.items()}
    if not as_json:
        say(f"{'name':26}{'GB':>5}  {'here':6}page with the licence")
        for name in EMBEDDED:
            say(f"{name:26}{0.02:>5}  {'yes':6}comes along, see sana_core/nano/NOTICE")
    for name in MODELS:
        model = release(name)
        size, here = model.gigabytes, local_file(model, models_dir) is not None
        if as_json:
            values = {"model": name, "release": model.name, "gigabytes": size, "here": here, "licence": model.licence}
            say_json({**values, "page": page(model), **{f"{part}_here": there for part, there in beside.items()}})
        else:
            say(f"{name:26}{size:>5}  {'yes' if here else 'no':6}{page(model)}")
    if not as_json:
        for part, file in BESIDE.items():
            say(f"and {file.name:22}{file.gigabytes:>5}  {'yes' if beside[part] else 'no':6}{page(file)}")
        tell("sizes are about those of the files; licences: NVIDIA's for SANA, Google's Gemma Terms for Gemma-2-2B")


def page(file: PublishedFile) -> str:
    """Where its licence stands."""
    return f"https://huggingface.co/{file.repository}"


def _in_comfyui(file: PublishedFile, models_dir: Path) -> Iterator[Path]:
    for folder in (file.directory, OLD_FOLDERS.get(file.directory)):
        if folder:
            for name in (file.local_name, f"{file.name}{PurePosixPath(file.file).suffix}", file.file_name):
                yield models_dir / folder / name


def _is_anybodys(path: Path) -> bool:
    """A name that the files of many models have."""
    return path.stem == "diffusion_pytorch_model"


def _is_autoencoder(path: Path) -> bool:
    try:
        load_autoencoder(path, device="meta")
    except SanaError:
        return False
    return True

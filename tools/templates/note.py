"""The notes of templates: the words of notes/<name>.md and notes/zh/<name>.md, and the files that are needed."""

from __future__ import annotations

from pathlib import Path

from sana_core.presets import PublishedFile

FOLDER = Path(__file__).parent / "notes"
WORDS = {
    "en": ("Files", "folder", "licence", "save it as", "The download is called"),
    "zh": ("文件", "文件夹", "许可证", "请另存为", "下载得到的文件名是"),
}


def note(name: str, files: list[PublishedFile], language: str = "en") -> str:
    """Markdown: the words of a template, then its files with links."""
    folder = FOLDER if language == "en" else FOLDER / language
    words = (folder / f"{name}.md").read_text("utf-8").strip()
    return "\n\n".join([words, *_files(files, language)]) + "\n"


def _files(files: list[PublishedFile], language: str) -> list[str]:
    """A list with links, and where each file goes."""
    if not files:
        return []
    title, folder, licence, save_as, called = WORDS[language]
    items = [
        f"- [{part.local_name}]({part.url}){_size(part)}, {folder} models/{part.directory}, "
        f"[{licence}](https://huggingface.co/{part.repository})"
        for part in files
    ]
    renamed = [f"{called} {part.file_name}: {save_as} **{part.local_name}**." for part in files if part.saved_as]
    return [f"### {title}", "\n".join(items), *renamed]


def _size(part: PublishedFile) -> str:
    return f", {part.gigabytes:g} GB" if part.gigabytes else ""

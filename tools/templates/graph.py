"""A template as data: nodes in titled groups, groups in columns, links by the names of outputs and inputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sana_core.presets import PublishedFile

NOTES = Path(__file__).parent / "notes"
OURS = {"cnr_id": "sana-native", "ver": "0.1.0"}  # how the editor knows which pack a missing node belongs to
CORE = {"cnr_id": "comfy-core", "ver": "0.33.0"}
WIDTH = 380


class Output(NamedTuple):
    """An output of a node, to be given as an input of another."""

    node: str
    name: str


@dataclass(frozen=True)
class Node:
    key: str

    def __getitem__(self, output: str) -> Output:
        return Output(self.key, output)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What editor.js makes a node from; height in pixels, None for the node's own."""

    key: str
    type: str
    title: str | None
    color: str | None
    height: int | None
    widgets: dict[str, Any]
    properties: dict[str, Any]


@dataclass(kw_only=True)
class Group:
    """A titled box, below the groups that stand in the same column already."""

    title: str
    color: str
    column: int
    width: int = WIDTH
    nodes: list[Spec] = field(default_factory=list)


class Template:
    """One packaged workflow. Its note is notes/<name>.md."""

    def __init__(self, name: str, note_height: int = 500) -> None:
        self.name = name
        self.groups: list[Group] = []
        self.links: list[tuple[str, str, str, str]] = []
        self._place = Group(title="", color="", column=0, width=440)
        self.groups.append(self._place)
        self.add("MarkdownNote", title="Read me", height=note_height, text=(NOTES / f"{name}.md").read_text("utf-8"))

    def group(self, title: str, color: str, column: int, width: int = WIDTH) -> None:
        """Nodes that are added from here on belong to this group."""
        self._place = Group(title=title, color=color, column=column, width=width)
        self.groups.append(self._place)

    def add(
        self,
        type: str,
        /,
        *,
        title: str | None = None,
        color: str | None = None,
        height: int | None = None,
        models: tuple[PublishedFile, ...] = (),
        **inputs: Any,
    ) -> Node:
        """A node. Inputs are values of widgets or outputs of other nodes; "__" in a name stands for the dot of a
        dynamic combo.

        models: files to download, for the editor's panel of missing models.
        """
        key = f"{type}{sum(len(group.nodes) for group in self.groups)}"
        named = {name.replace("__", "."): value for name, value in inputs.items()}
        self.links += [(*value, key, name) for name, value in named.items() if isinstance(value, Output)]
        widgets = {name: value for name, value in named.items() if not isinstance(value, Output)}
        origin = {} if type == "MarkdownNote" else OURS if type.startswith("SanaNative") else CORE
        downloads = [{"name": part.file_name, "url": part.url, "directory": part.directory} for part in models]
        spec = Spec(
            key=key,
            type=type,
            title=title,
            color=color,
            height=height,
            widgets=widgets,
            properties={**origin, **({"models": downloads} if downloads else {})},
        )
        self._place.nodes.append(spec)
        return Node(key)

    def described(self) -> dict[str, Any]:
        """What editor.js takes."""
        return {"groups": [asdict(group) for group in self.groups], "links": self.links}

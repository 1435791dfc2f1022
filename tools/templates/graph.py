"""A template as data: a note, one subgraph with what people change on it, and the nodes around it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from note import note

from sana_core.presets import PublishedFile

OURS = {"cnr_id": "sana-native", "ver": "0.1.0"}  # how the editor knows which pack a missing node belongs to
CORE = {"cnr_id": "comfy-core", "ver": "0.33.0"}


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
    """What editor.js makes a node from.

    column: from left to right, inside the subgraph or around it.  height in pixels; None: the node's own.
    """

    key: str
    type: str
    inside: bool
    column: int
    height: int | None
    title: str | None
    widgets: dict[str, Any]
    properties: dict[str, Any]


class Promoted(NamedTuple):
    """A widget of a node inside that is shown on the subgraph."""

    node: str
    widget: str
    label: str


@dataclass
class Template:
    """One packaged workflow, with its note first. Nodes inside the subgraph are added by `add`, others by `above` and
    `after`.

    form: labels on the subgraph that are the fields of the editor's App mode; none: the template opens as a graph.
    """

    name: str
    subgraph: str
    height: int = 620
    form: tuple[str, ...] = ()
    nodes: list[Spec] = field(default_factory=list)
    links: list[tuple[str, str, str, str]] = field(default_factory=list)
    promoted: list[Promoted] = field(default_factory=list)
    outputs: list[tuple[str, str, str]] = field(default_factory=list)
    files: list[PublishedFile] = field(default_factory=list)

    def add(self, type: str, /, *, column: int, models: tuple[PublishedFile, ...] = (), **inputs: Any) -> Node:
        """A node inside. Inputs are values of widgets or outputs of other nodes; "__" in a name stands for the dot of a
        dynamic combo.  tall: its least height in pixels.  models: files to download, for the editor's panel of missing
        models.
        """
        return self._add(type, True, column, models, inputs)

    def above(self, type: str, /, **inputs: Any) -> Node:
        """A node above the note, which has no height of its own in Nodes 2.0."""
        return self._add(type, False, 0, (), inputs)

    def after(self, type: str, /, called: str, **inputs: Any) -> Node:
        """A node right of it, which shows an output of the subgraph that is called so."""
        self.outputs += [(*value, called) for value in inputs.values() if isinstance(value, Output)]
        return self._add(type, False, 3, (), inputs)

    def promote(self, node: Node, **labels: str) -> None:
        """Show widgets of a node on the subgraph, below those that are there: widget -> label."""
        self.promoted += [Promoted(node.key, name.replace("__", "."), label) for name, label in labels.items()]

    def described(self) -> dict[str, Any]:
        """What editor.js takes."""
        text = {"text": note(self.name, self.files)}
        taken = [70 + (spec.height or 0) for spec in self.nodes if not spec.inside and spec.column == 0]
        last = Spec(
            key="note", type="MarkdownNote", inside=False, column=0, height=self.height - sum(taken), title="Read me",
            widgets=text, properties={},
        )  # fmt: skip
        return {
            "subgraph": self.subgraph,
            "height": self.height,
            "nodes": [asdict(spec) for spec in (*self.nodes, last)],
            "links": self.links,
            "promoted": self.promoted,
            "outputs": self.outputs,
        }

    def _add(
        self, type: str, inside: bool, column: int, models: tuple[PublishedFile, ...], inputs: dict[str, Any]
    ) -> Node:
        key = f"{type}{len(self.nodes)}"
        height, title = inputs.pop("tall", None), inputs.pop("title", None)
        named = {name.replace("__", "."): value for name, value in inputs.items()}
        self.links += [(*value, key, name) for name, value in named.items() if isinstance(value, Output)]
        self.files += [part for part in models if part not in self.files]
        downloads = [{"name": part.local_name, "url": part.url, "directory": part.directory} for part in models]
        spec = Spec(
            key=key,
            type=type,
            inside=inside,
            column=column,
            height=height,
            title=title,
            widgets={name: value for name, value in named.items() if not isinstance(value, Output)},
            properties={
                **(OURS if type.startswith("SanaNative") else CORE),
                **({"models": downloads} if downloads else {}),
            },
        )
        self.nodes.append(spec)
        return Node(key)

"""The lineage of a report as a drawing: boxes in columns from what came first to what came last, lines between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from registry.audit.report import AuditReport, Kind, ModelLine, SceneFacts

MOST = 6
"""Boxes of one kind that are drawn one by one; the rest is one box that counts them."""
WIDTH, GAP, LINE, PAD, BETWEEN = 226, 40, 16, 9, 16
"""Of a box, between columns, of a line of text, inside a box, between boxes of a column; in SVG units."""
LETTERS = 29
"""That fit into a box."""


@dataclass(frozen=True)
class Node:
    """One box."""

    id: str
    kind: Kind | str
    title: str
    lines: Sequence[str] = ()
    asked: bool = False
    """Whether it is what was asked about."""

    @property
    def height(self) -> int:
        """In SVG units."""
        return 2 * PAD + LINE * (1 + len(self.lines))


@dataclass
class Graph:
    """Columns of boxes, and lines between boxes of different columns."""

    columns: list[list[Node]] = field(default_factory=list)
    edges: list[tuple[str, str]] = field(default_factory=list)


def lineage_graph(report: AuditReport) -> Graph:
    """What the report's thing was made of, and what was made from it."""
    graph = Graph([column for column in _upstream(report) if column])
    if not graph.columns:
        graph.columns.append([_subject(report)])
    graph.edges += _edges_between(report)
    _add_touched(graph, report)
    return graph


def _upstream(report: AuditReport) -> Iterator[list[Node]]:
    data, model, made = report.dataset, report.model, report.map
    kind = report.subject.kind if report.subject else None
    if data is not None:
        first = [
            Node("labels", "labels", _count(len(data.labels), "label file"), [*_cut_list(data.labels)]),
            Node("training scenes", "scene", _count(len(data.scenes), "scene"), [_span(data.scenes), "trained on"]),
        ]
        yield first
        told = [data.digest[:16], *([f"DVC {data.dvc_hash[:12]}"] if data.dvc_hash else [])]
        dataset = Node("dataset", "dataset", "Dataset version", told, kind == "dataset")
        base = _base(report)
        yield [dataset, *([base] if base is not None else [])]
    if model is not None:
        told = [model.encoder, f"weights {model.weights_sha256[:12]}"]
        scenes = _map_scenes(report)
        node = Node("model", "model", f"Model {model.name}/{model.version}", told, kind == "model")
        yield [node, *([scenes] if scenes is not None else [])]
    if made is not None:
        reused = [f"{made.reused_tiles} made earlier"] if made.reused_tiles else []
        yield [Node("tiles", "tile", _count(made.tiles, "tile"), reused)]
        told = [made.id, f"for {made.date}", *(f"assessed with {one.units} units" for one in made.assessments[-1:])]
        yield [Node("map", "map", "Map", told, kind == "map")]


def _base(report: AuditReport) -> Node | None:
    if report.model is None:
        return None
    base = report.model.base_encoder
    if base is None:
        return Node("encoder", "encoder", "Base encoder", [report.model.encoder, report.model.base])
    told = [base.source, *([f"sha256 {base.sha256[:12]}"] if base.sha256 else []), base.licence]
    return Node("encoder", "encoder", f"Base {base.encoder}", told)


def _map_scenes(report: AuditReport) -> Node | None:
    if report.map is None:
        return None
    return Node("map scenes", "scene", _count(len(report.map.scenes), "scene"), [_span(report.map.scenes), "mapped"])


def _edges_between(report: AuditReport) -> Iterator[tuple[str, str]]:
    if report.dataset is not None:
        yield from (("labels", "dataset"), ("training scenes", "dataset"))
        if report.model is not None:
            yield from (("dataset", "model"), ("encoder", "model"))
    if report.map is not None:
        yield "map scenes", "tiles"
        yield "tiles", "map"
        if report.model is not None:
            yield "model", "tiles"


def _subject(report: AuditReport) -> Node:
    """A scene, labels or a base encoder: nothing lies before them."""
    subject = report.subject
    if subject is None:
        return Node("subject", "unknown", "Unknown", [report.asked])
    if report.scenes:
        return Node("subject", "scene", "Scene", [report.scenes[0].id, _span(report.scenes)], True)
    if report.labels:
        return Node("subject", "labels", "Labels", [report.labels[0].name, report.labels[0].sha256[:16]], True)
    return Node("subject", subject.kind, subject.name, [], True)


def _add_touched(graph: Graph, report: AuditReport) -> None:
    """Columns to the right: what was made from the thing, each joined to what it was made from."""
    touched, kind = report.touched, report.subject.kind if report.subject else ""
    if touched is None:
        return
    asked: str = kind if kind in ("dataset", "model") else "subject"
    datasets = _column(
        graph, "dataset", "dataset version", [(d.digest, d.digest[:16], d.project) for d in touched.datasets]
    )
    models = _column(graph, "model", "model", [(_name(m), _name(m), m.project) for m in touched.models])
    maps = _column(graph, "map", "map", [(f"{m.id} {m.digest}", m.id, f"for {m.date}") for m in touched.maps])
    edges: list[tuple[str, str]] = [(asked, node) for node in datasets.values()]
    edges += [(datasets.get(model.dataset or "", asked), models[_name(model)]) for model in touched.models]
    for line in touched.maps:
        node = maps[f"{line.id} {line.digest}"]
        edges += [(asked, node)] if line.through == "imagery" or kind == "model" else []
        edges += [(models[line.model], node)] if line.model in models else []
    graph.edges += dict.fromkeys(edges)


def _column(graph: Graph, kind: Kind, word: str, found: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """Add a column of (key, title, line); the box of each key, which may be the one that counts the rest."""
    if not found:
        return {}
    nodes = [Node(f"{kind} {k}", kind, title, [line]) for k, (_, title, line) in enumerate(found[:MOST])]
    if len(found) > MOST:
        nodes.append(Node(f"{kind} more", kind, f"and {_count(len(found) - MOST, word)}", ["more"]))
    graph.columns.append(nodes)
    return {key: nodes[min(k, MOST)].id for k, (key, _, _) in enumerate(found)}


def _name(model: ModelLine) -> str:
    return f"{model.name}/{model.version}"


def svg(graph: Graph) -> str:
    """The drawing as an SVG element that needs nothing from outside."""
    places: dict[str, tuple[int, int, Node]] = {}
    height = max(sum(node.height + BETWEEN for node in column) - BETWEEN for column in graph.columns) + 2
    for k, column in enumerate(graph.columns):
        top = (height - sum(node.height + BETWEEN for node in column) + BETWEEN) // 2
        for node in column:
            places[node.id] = (1 + k * (WIDTH + GAP), max(top, 1), node)
            top += node.height + BETWEEN
    width = len(graph.columns) * (WIDTH + GAP) - GAP + 2
    drawn = "".join(
        _line(places[one], places[other]) for one, other in graph.edges if one in places and other in places
    )
    boxes = "".join(_box(*place) for place in places.values())
    head = f'<svg class="lineage" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img"'
    return f'{head} aria-label="Lineage" xmlns="http://www.w3.org/2000/svg">{drawn}{boxes}</svg>'


def _line(one: tuple[int, int, Node], other: tuple[int, int, Node]) -> str:
    x, y = one[0] + WIDTH, one[1] + one[2].height / 2
    to_x, to_y = other[0], other[1] + other[2].height / 2
    bend = max((to_x - x) / 2, GAP / 2)
    far = " far" if to_x - x > GAP else ""  # past other columns
    return f'<path class="line{far}" d="M{x} {y:g}C{x + bend:g} {y:g} {to_x - bend:g} {to_y:g} {to_x} {to_y:g}"/>'


def _box(x: int, y: int, node: Node) -> str:
    title = ' class="title"'
    shape = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{node.height}" rx="6"/>'
    texts = "".join(
        f'<text x="{x + 12}" y="{y + PAD + LINE * (k + 1) - 4}"{title if k == 0 else ""}>{escape(_cut(text))}</text>'
        for k, text in enumerate([node.title, *node.lines])
    )
    name = escape(" ".join([node.title, *node.lines]))
    return f'<g class="{node.kind}{" asked" if node.asked else ""}"><title>{name}</title>{shape}{texts}</g>'


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 8]}…{text[-7:]}"


def _cut_list(names: Iterable[str]) -> list[str]:
    listed = list(names)
    return listed if len(listed) <= 3 else [*listed[:2], f"and {len(listed) - 2} more"]


def _span(scenes: Sequence[SceneFacts]) -> str:
    """The days of the scenes."""
    days = sorted(f"{scene.acquired:%Y-%m-%d}" for scene in scenes)
    if not days:
        return "none"
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"

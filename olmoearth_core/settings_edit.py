"""Setting keys of a project.yaml as a person would: comments, order and everything else stay as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from olmoearth_core.errors import ProjectError


def set_keys(text: str, section: str, values: Mapping[str, Any]) -> str:
    """The YAML text with keys of a section set to scalars; None takes a key away.

    Args:
        text: keys and sections, as in project.yaml.
        section: that is there, as a block or in braces; a missing one is added at the end.
        values: key -> text, number, boolean or None.

    Raises:
        ProjectError: the section is written in a way that cannot be changed safely (an alias, a merged key).
    """
    for key, value in values.items():
        text = _set(text, section, key, value)
    return text


def _set(text: str, section: str, key: str, value: Any) -> str:
    found = _child(_root(text), section)
    if found is None:
        return text if value is None else f"{text.rstrip()}\n{section}: {{{key}: {_scalar(value)}}}\n"
    _name, node = found
    if not isinstance(node, yaml.MappingNode):
        if value is None:
            return text
        if not isinstance(node, yaml.ScalarNode) or node.value:
            raise ProjectError(f"project.yaml: the section '{section}' holds no keys; write {key}: {_scalar(value)}.")
        return f"{text[: node.start_mark.index]} {{{key}: {_scalar(value)}}}{text[node.end_mark.index :]}"
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ProjectError(f"project.yaml uses aliases (*name); write {section}.{key}: {_scalar(value)} yourself.")
    child = _child(node, key)
    if child is None:
        return text if value is None else _added(text, node, key, value)
    return _removed(text, node, child) if value is None else _replaced(text, child[1], value)


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ProjectError("project.yaml holds no keys.")
    return root


def _child(node: yaml.MappingNode, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next(((name, value) for name, value in node.value if name.value == key), None)


def _replaced(text: str, node: yaml.Node, value: Any) -> str:
    start, end = node.start_mark.index, node.end_mark.index
    space = "" if text[start - 1 : start].isspace() else " "  # `key:` without a value
    return f"{text[:start]}{space}{_scalar(value)}{text[end:]}"


def _added(text: str, node: yaml.MappingNode, key: str, value: Any) -> str:
    start = node.start_mark.index
    if node.flow_style:
        comma = ", " if node.value else ""
        return f"{text[: start + 1]}{key}: {_scalar(value)}{comma}{text[start + 1 :]}"
    indent, last = " " * node.start_mark.column, node.value[-1][1]
    plain = last.style not in ("|", ">") if isinstance(last, yaml.ScalarNode) else last.flow_style
    if plain:  # else its end is that of what comes after it
        line_end = text.find("\n", last.end_mark.index)
        before, after = (f"{text}\n", "") if line_end < 0 else (text[: line_end + 1], text[line_end + 1 :])
        return f"{before}{indent}{key}: {_scalar(value)}\n{after}"
    return f"{text[:start]}{key}: {_scalar(value)}\n{indent}{text[start:]}"


def _removed(text: str, node: yaml.MappingNode, child: tuple[yaml.Node, yaml.Node]) -> str:
    name, value = child
    start, end = name.start_mark.index, value.end_mark.index
    if not node.flow_style:
        line_end = text.find("\n", end)
        return text[: text.rfind("\n", 0, start) + 1] + ("" if line_end < 0 else text[line_end + 1 :])
    rest = text[end:].lstrip()
    if rest.startswith(","):
        return text[:start] + rest[1:].lstrip()
    return text[:start].rstrip().removesuffix(",") + rest


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        plain = value.replace("-", "").replace("_", "").replace(".", "").replace("/", "").isalnum()
        return value if plain and yaml.safe_load(value) == value else json.dumps(value, ensure_ascii=False)
    text = json.dumps(value)
    return text.replace("e", ".0e", 1) if isinstance(value, float) and "." not in text else text  # YAML 1.1: 1.0e-05

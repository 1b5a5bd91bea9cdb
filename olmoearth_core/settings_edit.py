"""Setting keys of a project.yaml as a person would: comments, order and everything else stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import yaml

from olmoearth_core.errors import ProjectError
from olmoearth_core.settings_file import read_settings

_ESCAPED = re.compile(f"{yaml.reader.Reader.NON_PRINTABLE.pattern}|[\x85\u2028\u2029]")
"""What YAML refuses, or takes for the end of a line."""


def set_keys(text: str, section: str, values: Mapping[str, Any]) -> str:
    """The YAML text with keys of a section set; None takes a key away.

    Args:
        text: keys and sections, as in project.yaml.
        section: that is there, as a block or in braces; a missing one is added at the end.
        values: key -> text, number, boolean, date, a list or mapping of such, a list of mappings (written as a line
            each), or None.

    Raises:
        ProjectError: the section is written in a way that cannot be changed safely (an alias, a merged key).
    """
    for key, value in values.items():
        text = _set(text, section, key, value)
    return text


def key_lines(values: Mapping[str, Any], indent: int) -> list[str]:
    """Lines of YAML: `key: value`, each behind so many spaces; values as for `set_keys`."""
    margin = " " * indent
    return [line for key, value in values.items() for line in f"{margin}{key}:{_after_key(value, indent)}".split("\n")]


def _set(text: str, section: str, key: str, value: Any) -> str:
    found = _child(_root(text), section)
    if found is None:
        return text if value is None else f"{text.rstrip()}\n{section}: {{{key}: {_flow(value)}}}\n"
    _name, node = found
    if not isinstance(node, yaml.MappingNode):
        if value is None:
            return text
        if not isinstance(node, yaml.ScalarNode) or node.value:
            raise ProjectError(f"project.yaml: the section '{section}' holds no keys; write {key}: {_flow(value)}.")
        return f"{text[: node.start_mark.index]} {{{key}: {_flow(value)}}}{text[node.end_mark.index :]}"
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ProjectError(f"project.yaml uses aliases (*name); write {section}.{key}: {_flow(value)} yourself.")
    child = _child(node, key)
    if child is None:
        return text if value is None else _added(text, node, key, value)
    return _removed(text, node, child) if value is None else _replaced(text, node, child, value)


def _root(text: str) -> yaml.MappingNode:
    root = yaml.compose(text, yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise ProjectError("project.yaml holds no keys.")
    return root


def _child(node: yaml.MappingNode, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next(((name, value) for name, value in node.value if name.value == key), None)


def _replaced(text: str, section: yaml.MappingNode, child: tuple[yaml.Node, yaml.Node], value: Any) -> str:
    name, node = child
    start, end = node.start_mark.index, node.end_mark.index
    if not section.flow_style and _is_block(value):
        if _is_block_node(node):  # item by item: the comment behind the key stays
            start, end = text.rfind("\n", 0, start), _end_of_block(text, node)
            return f"{text[:start]}{_after_key(value, name.start_mark.column)}{text[end:]}"
        return f"{text[:start].rstrip(' ')}{_after_key(value, name.start_mark.column)}{text[end:]}"
    if _is_block_node(node):
        return f"{text[: name.end_mark.index]}: {_flow(value)}{text[_end_of_block(text, node) :]}"
    space = "" if text[start - 1 : start].isspace() else " "  # `key:` without a value
    return f"{text[:start]}{space}{_flow(value)}{text[end:]}"


def _is_block_node(node: yaml.Node) -> bool:
    """Written on lines of its own below its key."""
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _end_of_block(text: str, node: yaml.Node) -> int:
    """Where the last line of a block ends; its own mark is where the next key begins, behind comments."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    line_end = text.find("\n", node.end_mark.index)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return int(node.end_mark.index) - 1
    return len(text) if line_end < 0 else line_end


def _added(text: str, node: yaml.MappingNode, key: str, value: Any) -> str:
    start = node.start_mark.index
    if node.flow_style:
        comma = ", " if node.value else ""
        return f"{text[: start + 1]}{key}: {_flow(value)}{comma}{text[start + 1 :]}"
    column = node.start_mark.column
    indent, last = " " * column, node.value[-1][1]
    written = f"{indent}{key}:{_after_key(value, column)}\n"
    plain = last.style not in ("|", ">") if isinstance(last, yaml.ScalarNode) else last.flow_style
    if plain:  # else its end is that of what comes after it
        line_end = text.find("\n", last.end_mark.index)
        before, after = (f"{text}\n", "") if line_end < 0 else (text[: line_end + 1], text[line_end + 1 :])
        return f"{before}{written}{after}"
    return f"{text[:start]}{written.removeprefix(indent)}{indent}{text[start:]}"


def _removed(text: str, node: yaml.MappingNode, child: tuple[yaml.Node, yaml.Node]) -> str:
    name, value = child
    start, end = name.start_mark.index, value.end_mark.index
    if _is_block_node(value):
        end = _end_of_block(text, value)
    if not node.flow_style:
        line_end = text.find("\n", end)
        return text[: text.rfind("\n", 0, start) + 1] + ("" if line_end < 0 else text[line_end + 1 :])
    rest = text[end:].lstrip()
    if rest.startswith(","):
        return text[:start] + rest[1:].lstrip()
    return text[:start].rstrip().removesuffix(",") + rest


def _is_block(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(v, Mapping) for v in value)


def _after_key(value: Any, indent: int) -> str:
    """What stands behind `key:`, a list of mappings on lines of their own."""
    if not _is_block(value):
        return f" {_flow(value)}"
    return "".join(f"\n{' ' * (indent + 2)}- {_flow(item)}" for item in value)


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, str):
        plain = value.translate({ord(mark): None for mark in "-_./ "}).isalnum() and value == value.strip()
        return value if plain and _plainly(value) else quoted(value)
    text = json.dumps(value)
    return text.replace("e", ".0e", 1) if isinstance(value, float) and "." not in text else text  # YAML 1.1: 1.0e-05


def quoted(text: str) -> str:
    """A text in quotes; what YAML does not take as it is becomes an escape of its code."""
    written = json.dumps(text, ensure_ascii=False)
    return _ESCAPED.sub(lambda found: f"\\U{ord(found.group()):08x}", written)


def _plainly(text: str) -> bool:
    """Without quotes YAML 1.1 and our reader (1e5 is a number) take it for this text, on one line and as a key too."""
    try:
        return bool(yaml.safe_load(text) == text == read_settings(f"key: {text}", "text")["key"])
    except (yaml.YAMLError, ProjectError):
        return False

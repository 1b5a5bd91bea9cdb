"""YAML of settings, read without its traps.

Scalars follow the core schema of YAML 1.2: `no` and `on` are text, `1e-3` is a number, `2021-07-16` stays text until
somebody asks for a date. A key that stands twice is refused; plain YAML readers drop the first without a word.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from olmoearth_core.errors import ProjectError


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own protocol)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def read_settings(text: str, source: str) -> dict[str, Any]:
    """Parse YAML `text` into its keys and values.

    Args:
        text: the YAML.
        source: the file's name in messages.

    Raises:
        ProjectError: the text is empty, is no YAML, or holds something else than keys.
    """
    try:
        values = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ProjectError(f"{source}: not valid YAML{place}: {error.problem or error.context}") from error
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        KeyError,
        RecursionError,
    ) as error:  # `!!int abc`, endless nesting
        raise ProjectError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        raise ProjectError(f"{source}: is empty; `olmoearth init NAME --template T` writes one to begin with")
    if not isinstance(values, dict):
        found = "a list" if isinstance(values, list) else f"'{str(values)[:40]}'"
        raise ProjectError(f"{source}: expected keys like 'name:' and 'task:', found {found}")
    return values

"""What pydantic finds wrong with a file of settings, as sentences that a partner understands."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_EXPECTED = {
    "string": "expected text",
    "int": "expected a whole number",
    "float": "expected a number",
    "bool": "expected true or false",
    "date": "expected a date like 2021-07-16",
    "list": "expected a list",
}


def sentences(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One sentence for each wrong key: the key, what is allowed, what was found.

    Args:
        error: what validating against `root` raised.
        root: the model of the whole file.
    """
    return [_sentence(problem, root) for problem in error.errors(include_url=False)]


def _sentence(problem: Any, root: type[BaseModel]) -> str:
    where, beside = _locate(problem["loc"], root)
    kind, found = problem["type"], problem["input"]
    context = problem.get("ctx", {})
    family = kind.partition("_")[0]
    match kind:
        case "missing":
            return f"{where}: this key is required"
        case "extra_forbidden":
            near = get_close_matches(str(problem["loc"][-1]), beside, 1)
            text = f"unknown key{_shown(found)}; did you mean '{near[0]}'?" if near else f"unknown key{_shown(found)}."
            return f"{where}: {text} Allowed here: {', '.join(beside)}"
        case "value_error":
            return f"{where}: {context['error']}" if where else str(context["error"])
        case "union_tag_not_found" | "union_tag_invalid":
            tag = context.get("tag")
            if tag is None:
                return f"{where}.kind: this key is required"
            return f"{where}.kind: must be {_either(context['expected_tags'])}, found '{tag}'"
        case "too_short":
            return f"{where}: needs {context['min_length']} or more, found {context['actual_length']}"
        case "too_long":
            return f"{where}: at most {context['max_length']} are allowed, found {context['actual_length']}"
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{where or 'project'}: expected keys below it{_shown(found)}"
        case "string_type":
            # `color: #2c7fb8` is the likeliest way to nothing
            hint = "what begins with '#' is a comment, " if found is None else ""
            return f"{where}: expected text{_shown(found)}; {hint}put it in quotes"
        case _ if family in _EXPECTED and kind != "string_too_short":
            return f"{where}: {_EXPECTED[family]}{_shown(found)}"
        case _:
            text = str(problem["msg"]).replace("Input should", "must").replace("String should", "must")
            return f"{where}: {text}{_shown(found)}"


def _shown(found: Any) -> str:
    if found is None:
        return ", found nothing"
    return "" if isinstance(found, dict) else f", found {found!r}"


def _either(tags: str) -> str:
    *others, last = tags.split(", ")
    return f"{', '.join(others)} or {last}" if others else last


def _locate(location: tuple[Any, ...], root: type[BaseModel]) -> tuple[str, list[str]]:
    """The key as the file writes it (without the tags that pydantic adds in a union) and the keys allowed beside it."""
    sections = [root]
    beside: list[str] = []
    names = []
    for part in location:
        tagged = [
            s for s in sections if "kind" in s.model_fields and part in get_args(s.model_fields["kind"].annotation)
        ]
        if len(sections) > 1 and tagged:
            sections = tagged
            continue
        names.append(str(part))
        if not isinstance(part, int):
            beside = [key for section in sections for key in section.model_fields]
            fields = [s.model_fields[part] for s in sections if part in s.model_fields]
            sections = [model for field in fields for model in _models(field.annotation)]
    return ".".join(names), beside


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]

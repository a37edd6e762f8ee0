"""Settings for people: what each key means and may be, and their values as YAML with comments."""

import ast
import inspect
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import yaml
from pydantic import BaseModel

WIDTH = 100
BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
}
WORDS = {
    "number": "number",
    "integer": "whole number",
    "string": "text",
    "array": "list",
    "object": "mapping",
}


@dataclass(frozen=True)
class Key:
    """What one key of a group of settings is."""

    meaning: str
    """The docstring below the field; of a group without one, the first line of its class."""
    allowed: str
    """The values that it takes, in words; empty for a group and where anything goes."""
    default: object
    """As in YAML; None for a group."""
    is_group: bool


@cache
def keys_of(model: type[BaseModel]) -> dict[str, Key]:
    """What each key of a group is, by its name."""
    meanings, schema = _docstrings(model), model.model_json_schema()["properties"]
    found = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        is_group = isinstance(default, BaseModel)
        group = (type(default).__doc__ or "").partition("\n")[0] if is_group else ""
        found[name] = Key(
            meaning=meanings.get(name, group),
            allowed="" if is_group else _allowed(schema[name]),
            default=None if is_group else schema[name].get("default"),
            is_group=is_group,
        )
    return found


def annotated_yaml(settings: BaseModel) -> str:
    """Settings as YAML, each key below its meaning; reading it gives equal settings again."""
    return "\n".join(_annotated(settings, settings.model_dump(mode="json"), "")) + "\n"


def in_yaml(value: object) -> str:
    """A value as YAML on one line."""
    style: dict[str, Any] = {
        "default_flow_style": True,
        "allow_unicode": True,
        "sort_keys": False,
        "width": math.inf,
    }
    text: str = yaml.safe_dump(value, **style).removesuffix("...\n").rstrip("\n")
    if "\n" in text:  # of a text of several lines, which only this style keeps on one
        text = yaml.safe_dump(value, default_style='"', **style).strip()
    return text


def _annotated(settings: BaseModel, values: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, key in keys_of(type(settings)).items():
        yield from textwrap.wrap(
            key.meaning,
            WIDTH,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_on_hyphens=False,
        )
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _annotated(value, values[name], f"{indent}  ")
        else:
            allowed = f"  # {key.allowed}" if key.allowed else ""
            yield f"{indent}{name}: {in_yaml(values[name])}{allowed}"


@cache
def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field, also of a class that the model is derived from."""
    found = {}
    for part in reversed(model.__mro__):
        if not issubclass(part, BaseModel) or part is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        for field, below in pairwise(tree.body if isinstance(tree, ast.ClassDef) else ()):
            match field, below:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    return found


def _allowed(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    if "anyOf" in schema:
        return " | ".join(filter(None, map(_allowed, schema["anyOf"])))
    if "enum" in schema:
        return " | ".join(map(in_yaml, schema["enum"]))
    if "oneOf" in schema or "$ref" in schema:
        return "keys of its own"
    kind = schema.get("type")
    if kind == "null":
        return "null"
    if kind == "boolean":
        return "true | false"
    bounds = [words.format(schema[key]) for key, words in BOUNDS.items() if key in schema]
    return " ".join([WORDS.get(kind or "", ""), *bounds]).strip()

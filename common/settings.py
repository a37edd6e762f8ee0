"""YAML and `--set key=value` into typed values; a typo names the nearest key there is."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from common.errors import ConfigError

M = TypeVar("M", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, as YAML has it, where PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [str(key.value) for key, _ in node.value]
        if doubled := [key for key in keys if keys.count(key) > 1]:
            problem = f"the key {doubled[0]!r} stands twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """A YAML mapping; an empty text is an empty one.

    Raises:
        ConfigError: the text is no YAML, or no mapping.
    """
    try:
        data = yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected `key: value` lines, found {type(data).__name__}")
    return data


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["optimizer.lr=1e-3"]` as the nested mapping `{"optimizer": {"lr": "1e-3"}}`.

    Values are YAML, so lists and null can be written. YAML 1.1 reads `1e-3` as a string; the typed
    fields make it the number it is.

    Raises:
        ConfigError: an override is not `key=value`, or its value is not YAML.
    """
    merged: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"--set {override}: write key=value, as in optimizer.lr=1e-3")
        try:
            nested: dict[str, Any] = {parts[-1]: yaml.safe_load(value)}
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
        for part in reversed(parts[:-1]):
            nested = {part: nested}
        merged = merge(merged, nested)
    return merged


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping.

    A mapping of another `kind` takes the place of the one below it, since it has other keys.
    """
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping) and _same_kind(inner, value):
            merged[key] = merge(inner, value)
        else:
            merged[key] = value
    return merged


def _same_kind(base: Mapping[str, Any], changes: Mapping[str, Any]) -> bool:
    return "kind" not in changes or changes["kind"] == base.get("kind")


def parse(model: type[M], data: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> M:
    """Validate nested values with `key=value` overrides on top.

    Args:
        model: what they are.
        data: the values.
        source: names these in errors; the others are of `--set`.
        overrides: as `parse_overrides` takes them.

    Raises:
        ConfigError: a key that is not known, with the nearest that is, or a value that is not; or
            an override that is none.
    """
    changes = parse_overrides(overrides)
    merged = merge(data, changes)

    def origin(key: str) -> str:
        if not key:  # what does not go together may come from both
            return f"{source} with --set" if changes else source
        return "--set" if _holds(model, changes, key.split(".")) else source

    known = list(dotted_keys(model))
    unknown = [
        f"{origin(key)}: {key}: no such key"
        + (did_you_mean(key, known) or f"; there are {', '.join(model.model_fields)}")
        for key in _unknown_keys(model, merged)
    ]
    if unknown:
        raise ConfigError("; ".join(unknown))
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        lines = [f"{origin(key)}: {line}" for key, line in _explained(error)]
        raise ConfigError("; ".join(lines)) from error


def _holds(model: type[BaseModel], values: Mapping[str, Any], key: list[str]) -> bool:
    """Whether nested values hold a key; of a value of several kinds, whether they hold any of it.

    For there pydantic puts the kind between the parts of a key.
    """
    first, *rest = key
    inner, field = values.get(first), model.model_fields.get(first)
    group = _group(field.annotation) if field else None
    if rest and group is not None and isinstance(inner, Mapping):
        return _holds(group, inner, rest)
    return first in values


def explain(error: ValidationError) -> str:
    """A pydantic error as `key: what is wrong, found …; …`, for people who wrote YAML."""
    return "; ".join(line for _, line in _explained(error))


def _explained(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Each key that is wrong, and what is wrong with it."""
    wrong, found = dict[str, list[str]](), dict[str, str]()
    for item in error.errors():
        # A value of several types has an error for each, under the type's name.
        key = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
        told = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            told = "no such key here, take it out"
        if earlier := wrong.setdefault(key, []):
            told = told.removeprefix("Input should be ")
        earlier.append(told)
        if key and not isinstance(item["input"], dict):
            found[key] = f", found {item['input']!r}"
    for key, reasons in wrong.items():
        yield key, f"{key or 'the whole'}: {' or '.join(reasons)}{found.get(key, '')}"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The nearest valid name as `; did you mean …?`: by last part alone, else spelt alike."""
    same_end = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]]
    near = difflib.get_close_matches(name, same_end or known, n=1, cutoff=0 if same_end else 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key that `--set` takes."""
    for name, field in model.model_fields.items():
        group = _group(field.annotation)
        if group is None:
            yield f"{prefix}{name}"
        else:
            yield from dotted_keys(group, f"{prefix}{name}.")


def _unknown_keys(
    model: type[BaseModel], data: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for name, value in data.items():
        field = model.model_fields.get(name)
        if field is None:
            yield f"{prefix}{name}"
            continue
        group = _group(field.annotation)
        if group is not None and isinstance(value, Mapping):
            yield from _unknown_keys(group, value, f"{prefix}{name}.")


def _group(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None

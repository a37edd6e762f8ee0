"""YAML and `--set key=value` as typed values; an error about an unknown key names the nearest."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, ValidationError

from common.errors import ConfigError, InputError
from common.files import read_text, reason_of
from common.names import shortened

M = TypeVar("M", bound=BaseModel)

MOST_YAML_BYTES = 1 << 20
"""Largest file of settings: lists of 40,000 case ids."""

MOST_NESTED = 20
"""Levels of nested values; those of this program have five."""

MOST_DIGITS = 100
"""Of a number."""

MOST_SHOWN = 5
"""Wrong keys and values that a message names."""


class Settings(BaseModel):
    """Typed values that are not changed and have no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Loader(yaml.CSafeLoader):
    """Refuses a repeated key, as YAML demands, and what could take for ever to read."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(str(key.value) for key, _ in node.value)
        if doubled := [key for key, count in counts.items() if count > 1]:
            raise _problem(f"the key {shortened(repr(doubled[0]))} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _problem(found: str, mark: Any) -> yaml.MarkedYAMLError:  # noqa: ANN401 - a type without a stub
    return yaml.constructor.ConstructorError(None, None, found, mark)


def _check_events(text: str) -> None:
    """Refuse what a text of settings never needs, and what can be large or slow when it is built.

    Raises:
        yaml.YAMLError: it is not YAML, or has any of this.
    """
    depth = 0
    for event in yaml.parse(text, yaml.CSafeLoader):
        mark = event.start_mark
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_NESTED:
            raise _problem(f"values nested more than {MOST_NESTED} deep", mark)
        if isinstance(event, yaml.NodeEvent) and event.anchor:
            raise _problem(f"a name for a value, {event.anchor}; write the value itself", mark)
        if isinstance(event, (yaml.ScalarEvent, yaml.CollectionStartEvent)) and event.tag:
            raise _problem(f"a tag, {event.tag}; write plain values", mark)
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _is_long(event.value):
            raise _problem(f"a number of {len(event.value)} digits", mark)


def _is_long(value: str) -> bool:
    return len(value) > MOST_DIGITS and value.lstrip("+-")[:1].isdigit()


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """A YAML mapping; an empty text is an empty mapping.

    Raises:
        ConfigError: the text is not YAML, or not a mapping.
    """
    data = _value(text, source)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: expected `key: value` lines, found {type(data).__name__}")
    return data


def read_yaml_file(path: Path) -> dict[str, Any]:
    """A file's YAML mapping.

    Raises:
        ConfigError: it cannot be read, is too large, not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = read_text(path, MOST_YAML_BYTES)
    except (InputError, OSError) as error:
        raise ConfigError(f"{path}: {reason_of(error)}; expected a YAML file in UTF-8") from error
    return read_yaml(text, str(path))


def _value(text: str, source: str) -> object:
    try:
        _check_events(text)
        return yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark, error.problem or error.context
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{source}: not YAML{place}: {problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-99-99 is a ValueError
        raise ConfigError(f"{source}: not YAML: {' '.join(str(error).split())}") from error


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """`["optimizer.lr=1e-3"]` as the nested mapping `{"optimizer": {"lr": "1e-3"}}`.

    Values are YAML, so they may be lists or null. YAML 1.1 reads `1e-3` as a string, which a typed
    field converts to a number.

    Raises:
        ConfigError: an override is not `key=value`, or its value is not YAML.
    """
    merged: dict[str, Any] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts) or len(parts) > MOST_NESTED:
            raise ConfigError(
                f"--set {shortened(override)}: write key=value, as in optimizer.lr=1e-3"
            )
        nested: dict[str, Any] = {parts[-1]: _value(value, f"--set {shortened(override)}")}
        for part in reversed(parts[:-1]):
            nested = {part: nested}
        merged = merge(merged, nested, by_kind=False)
    return merged


def merge(
    base: Mapping[str, Any], changes: Mapping[str, Any], *, by_kind: bool = True
) -> dict[str, Any]:
    """`base` with `changes` on top, in nested mappings too.

    With `by_kind`, a mapping of another `kind` replaces the one in `base`: it has other keys.
    """
    merged = dict(base)
    for key, value in changes.items():
        inner: Any = merged.get(key)
        merged[key] = value
        nested = isinstance(inner, Mapping) and isinstance(value, Mapping)
        if nested and (not by_kind or value.get("kind", inner.get("kind")) == inner.get("kind")):
            merged[key] = merge(inner, value, by_kind=by_kind)
    return merged


def parse(model: type[M], data: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> M:
    """Validate nested values of a source, which errors name, with `key=value` overrides on top.

    Raises:
        ConfigError: an unknown key, a wrong value, or an override that is not `key=value`.
    """
    changes = parse_overrides(overrides)
    merged = merge(data, changes)

    def origin(key: str) -> str:
        if not key:  # values that contradict each other may be from both
            return f"{source} with --set" if changes else source
        return "--set" if _holds(model, changes, key.split(".")) else source

    known, unknown = list(dotted_keys(model, merged)), list(_unknown_keys(model, merged))
    if unknown:
        lines = [
            f"{origin(key)}: {shortened(key)}: no such key"
            + (did_you_mean(key, known) or f"; there are {', '.join(model.model_fields)}")
            for key in unknown[:MOST_SHOWN]
        ]
        raise ConfigError("; ".join(lines + _more(unknown)))
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        wrong = list(_explained(error, model))
        lines = [f"{origin(key)}: {line}" for key, line in wrong[:MOST_SHOWN]]
        raise ConfigError("; ".join(lines + _more(wrong))) from error


def _more(items: Sequence[object]) -> list[str]:
    return [f"and {len(items) - MOST_SHOWN} more"] if len(items) > MOST_SHOWN else []


def _holds(model: type[BaseModel], values: Mapping[str, Any], key: list[str]) -> bool:
    """Whether nested values have a key, or name the kind that needs it."""
    first, *rest = key
    inner, field = values.get(first), model.model_fields.get(first)
    group = _group(field.annotation, inner) if field else None
    if rest and group is not None and isinstance(inner, Mapping):
        return _holds(group, inner, rest)
    return first in values or "kind" in values


def explain(error: ValidationError) -> str:
    """A pydantic error as `key: what is wrong, found …`, for each wrong key."""
    return "; ".join(line for _, line in _explained(error))


def _explained(
    error: ValidationError, model: type[BaseModel] | None = None
) -> Iterator[tuple[str, str]]:
    """Each wrong key, and its error."""
    wrong, found = dict[str, list[str]](), dict[str, str]()
    for item in error.errors():
        key = _written_key(item["loc"], model)
        reason = item["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
        reason = reason.replace("a valid tuple", "a list, as in [a, b]")
        if item["type"] == "extra_forbidden":
            reason = "no such key here, take it out"
        if earlier := wrong.setdefault(key, []):
            reason = reason.removeprefix("Input should be ")
        earlier.append(reason)
        if key and not isinstance(item["input"], dict):
            found[key] = f", found {shortened(repr(item['input']))}"
    for key, reasons in wrong.items():
        yield key, f"{key or 'values'}: {' or '.join(reasons)}{found.get(key, '')}"


def _written_key(location: Sequence[int | str], model: type[BaseModel] | None) -> str:
    """A location of pydantic as a dotted key, without the types and kinds that pydantic adds."""
    parts, kinds = list[str](), list[type[BaseModel]]()
    for part in map(str, location):
        if kinds:
            model, kinds = _of_kind(kinds, part), []
            continue
        if "[" not in part:
            parts.append(part)
        field = model.model_fields.get(part) if model else None
        found = _models(field.annotation) if field else []
        model, kinds = (found[0], []) if len(found) == 1 else (None, found)
    return ".".join(parts)


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """`; did you mean …?` with the nearest name: beside it, of the same last part, or similar."""
    beside = [key for key in known if key.rpartition(".")[0] == name.rpartition(".")[0]]
    if near := difflib.get_close_matches(name, beside, n=1, cutoff=0.8):
        return f"; did you mean {near[0]}?"
    same_end = [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2]]
    near = difflib.get_close_matches(name, same_end or known, n=1, cutoff=0 if same_end else 0.6)
    return f"; did you mean {near[0]}?" if near else ""


def dotted_keys(
    model: type[BaseModel], values: Mapping[str, Any] | None = None, prefix: str = ""
) -> Iterator[str]:
    """Every key of `--set`; of a value of several kinds, those of the kind in `values`."""
    for name, field in model.model_fields.items():
        inner = (values or {}).get(name)
        group = _group(field.annotation, inner)
        if group is None:
            yield f"{prefix}{name}"
        else:
            nested = inner if isinstance(inner, Mapping) else None
            yield from dotted_keys(group, nested, f"{prefix}{name}.")


def _unknown_keys(
    model: type[BaseModel], data: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    for name, value in data.items():
        field = model.model_fields.get(name)
        if field is None:
            yield f"{prefix}{name}"
            continue
        group = _group(field.annotation, value)
        if group is not None and isinstance(value, Mapping):
            yield from _unknown_keys(group, value, f"{prefix}{name}.")


def _group(annotation: object, value: object) -> type[BaseModel] | None:
    """The model of a nested value; of several, that of its `kind`, by default the first."""
    models = _models(annotation)
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if len(models) < 2 or kind is None:
        return models[0] if models else None
    return _of_kind(models, kind)


def _models(annotation: object) -> list[type[BaseModel]]:
    """The annotation if it is a model, or the models of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in {Union, UnionType, Annotated}:
        return [model for member in get_args(annotation) for model in _models(member)]
    return []


def _of_kind(models: Sequence[type[BaseModel]], kind: object) -> type[BaseModel] | None:
    return next((m for m in models if kind in get_args(m.model_fields["kind"].annotation)), None)


def kind_of(default: str) -> Callable[[object], str]:
    """The discriminator of a field of several kinds; without a `kind` a value is the default."""

    def kind(value: object) -> str:
        if isinstance(value, Mapping):
            return str(value.get("kind", default))
        return str(getattr(value, "kind", None))

    return kind


def one_of(kinds: Any, default: str) -> Discriminator:  # noqa: ANN401 - a union of tagged models
    """Tells by its `kind` which of several models a value is; without one it is the default."""
    names = ", ".join(model.__metadata__[0].tag for model in get_args(kinds))
    return Discriminator(
        kind_of(default),
        custom_error_type="kind",
        custom_error_message=f"expected kind: one of {names}",
    )

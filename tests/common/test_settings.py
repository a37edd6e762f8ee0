"""YAML and `--set` into typed values."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from folders import NO_FILES
from pydantic import BaseModel, ConfigDict, Field, model_validator

from common.errors import ConfigError
from common.settings import (
    did_you_mean,
    dotted_keys,
    merge,
    parse,
    parse_overrides,
    read_yaml,
    read_yaml_file,
)


class Optimizer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lr: float = Field(default=0.003, gt=0)
    name: Literal["nadam", "sgd"] = "nadam"
    clip: float | None = None


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epochs: int = 70
    widths: tuple[int, ...] = (8, 16)
    optimizer: Optimizer = Optimizer()


def set_values(*overrides: str) -> Config:
    return parse(Config, {}, "a file", overrides)


def test_overrides_are_typed_by_what_they_set() -> None:
    config = set_values("epochs=4", "widths=[4, 8]", "optimizer.lr=1e-3", "optimizer.clip=null")
    assert config.epochs == 4
    assert config.widths == (4, 8)
    assert config.optimizer == Optimizer(lr=0.001)


def test_the_last_override_wins_and_leaves_its_neighbours() -> None:
    config = set_values("optimizer.lr=1", "optimizer.name=sgd", "optimizer.lr=2")
    assert config.optimizer == Optimizer(lr=2, name="sgd")


def test_a_value_may_hold_an_equals_sign() -> None:
    assert parse_overrides(["a=b=c"]) == {"a": "b=c"}


@pytest.mark.parametrize("override", ["epochs", "=3", "a..b=1", ".=1", ""])
def test_what_is_no_override(override: str) -> None:
    with pytest.raises(ConfigError, match=r"write key=value, as in optimizer.lr=1e-3"):
        parse_overrides([override])


def test_a_value_that_is_no_yaml() -> None:
    with pytest.raises(ConfigError, match=r"widths=.*: not YAML"):
        parse_overrides(["widths=[1, 2"])


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("epoch=3", "epochs"),
        ("optimiser.lr=3", "optimizer.lr"),
        ("lr=3", "optimizer.lr"),
        ("optimizer.learning=3", None),
        ("optimizer.nmae=sgd", "optimizer.name"),
    ],
)
def test_a_typo_names_the_nearest_key(override: str, key: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        set_values(override)
    text = str(caught.value)
    assert f"{override.partition('=')[0].split('.')[0]}" in text
    assert "no such key" in text
    if key:
        assert text.endswith(f"did you mean {key}?")


def test_every_typo_is_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"epoch: no such key.*; --set: optimizer.lrr: no such"):
        set_values("epoch=3", "optimizer.lrr=4")


def test_an_error_names_where_its_key_was_written() -> None:
    written = {"widths": 3, "optimizer": {"lr": -1, "clip": 2}}
    with pytest.raises(ConfigError) as wrong:
        parse(Config, written, "a file", ["optimizer.name=adam", "optimizer.lr=-2"])
    where = [line.partition(": ")[0] for line in str(wrong.value).split("; ")]
    assert where == ["a file", "--set", "--set"]
    with pytest.raises(ConfigError, match=r"^a file: epoch: no such.*; --set: optimizer\.lrr: no"):
        parse(Config, {"epoch": 3}, "a file", ["optimizer.lrr=4"])


class Halves(BaseModel):
    kind: Literal["halves"] = "halves"
    first: float = Field(default=0.5, le=1)


class Lists(BaseModel):
    kind: Literal["lists"]
    names: tuple[str, ...]


class Divided(BaseModel):
    model_config = ConfigDict(extra="forbid")
    epochs: int = Field(default=1, lt=9)
    splits: Annotated[Halves | Lists, Field(discriminator="kind")] = Halves()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs == 7:
            raise ValueError("seven is no number of epochs")
        return self


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("splits={kind: halves, first: 2}", "--set: splits.first: "),
        ("splits.kind=lists", "--set: splits.names: "),
        ("splits.first=0.2", "a file: epochs: "),
        ("epochs=7", "a file with --set: values: seven is no"),
    ],
)
def test_an_error_of_several_kinds_of_values_or_of_the_whole(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as wrong:
        parse(Divided, {"epochs": 10, "splits": {"kind": "halves"}}, "a file", [override])
    assert message in str(wrong.value)


def test_a_wrong_value_names_its_key() -> None:
    with pytest.raises(
        ConfigError, match=r"optimizer.lr: Input should be greater than 0, found -1"
    ):
        set_values("optimizer.lr=-1")
    with pytest.raises(ConfigError, match=r"optimizer.name: .*'nadam' or 'sgd'.*found 'adam'"):
        set_values("optimizer.name=adam")
    with pytest.raises(ConfigError, match=r"optimizer: .*found 3"):
        set_values("optimizer=3")


def test_yaml_that_is_none_or_no_mapping() -> None:
    assert read_yaml("", "f.yaml") == {}
    assert read_yaml("# nothing\n", "f.yaml") == {}
    with pytest.raises(ConfigError, match=r"f.yaml: expected `key: value` lines, found list"):
        read_yaml("- 1", "f.yaml")
    with pytest.raises(ConfigError, match=r"f.yaml: not YAML"):
        read_yaml("a: [", "f.yaml")
    with pytest.raises(ConfigError, match="not YAML"):
        read_yaml("a: !!python/object/apply:os.getcwd []", "f.yaml")


def test_merging_goes_into_mappings_and_replaces_the_rest() -> None:
    base = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merge(base, {"a": {"b": 3}, "d": [2]}) == {"a": {"b": 3, "c": 2}, "d": [2]}
    assert merge(base, {"a": None}) == {"a": None, "d": [1]}
    assert base == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_a_mapping_of_another_kind_takes_the_place_of_one() -> None:
    base = {"a": {"kind": "x", "b": 1}}
    assert merge(base, {"a": {"kind": "y", "c": 2}}) == {"a": {"kind": "y", "c": 2}}
    assert merge(base, {"a": {"kind": "x", "c": 2}}) == {"a": {"kind": "x", "b": 1, "c": 2}}
    assert merge(base, {"a": {"c": 2}}) == {"a": {"kind": "x", "b": 1, "c": 2}}


def test_keys_that_can_be_set() -> None:
    assert list(dotted_keys(Config)) == [
        "epochs",
        "widths",
        "optimizer.lr",
        "optimizer.name",
        "optimizer.clip",
    ]
    assert did_you_mean("zzz", ["epochs"]) == ""
    assert did_you_mean("splits", ["modalities"]) == ""


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: &x [1]\nb: *x", "line 1, column 4"),
        ("a:\n  b: !!set {x}", "line 2, column 6"),
        (f"a: 1\nb: {'9' * 10_000}", "line 2, column 4"),
        (f"a: 0x{'f' * 10_000}", "line 1, column 4"),
        (f"a: {'[' * 50_000}", "nest"),
        ("a:\n" + "".join(f"{' ' * depth}b:\n" for depth in range(1, 500)), "line 21, column 21"),
        ("a: 2024-99-99", "month"),
        ("a: \0", "#x0000"),
        ("b: 1\n" + "a: 1\n" * 9_000, "'a' is there twice"),
    ],
    ids=range(9),
)
def test_what_could_be_large_or_slow_is_one_short_line_with_its_place(
    text: str, place: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(place)) as caught:
        read_yaml(text, "f.yaml")
    assert str(caught.value).startswith("f.yaml: ")
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
    if "\n" not in text:
        with pytest.raises(ConfigError, match="--set widths="):
            parse_overrides([f"widths={text.removeprefix('a: ')}"])


def test_many_wrong_keys_and_values_are_one_short_message() -> None:
    wrong = {f"epochs{n}": n for n in range(10_000)}
    with pytest.raises(ConfigError, match="and 9995 more") as caught:
        parse(Config, wrong, "f.yaml")
    assert len(str(caught.value)) < 1000
    with pytest.raises(ConfigError, match="and 9995 more") as caught:
        parse(Config, {"widths": ["x" * 1000] * 10_000}, "f.yaml")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", ["name: é".encode("latin-1"), "name: x".encode("utf-16")])
def test_a_file_in_another_encoding_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{path}: .* line 1, which is not UTF-8"):
        read_yaml_file(path)


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_file_of_settings_is_a_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    NO_FILES[kind](path)
    with pytest.raises(ConfigError, match=rf"{path}: {kind}"):
        read_yaml_file(path)


def test_a_file_of_settings_is_small(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match=f"{path}: more than 1,048,576 bytes"):
        read_yaml_file(path)

"""How both command lines end."""

import importlib
import sys
from collections.abc import Callable

import pytest
import typer

from common import console
from common.store import Store


def ends(
    work: Callable[[], object],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What a command that does this says when it ends."""
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(work)
    monkeypatch.setattr(sys, "argv", ["command"])
    monkeypatch.setattr(console.err, "width", 400)
    with pytest.raises(SystemExit) as ended:
        console.run(app)
    assert ended.value.code == console.USAGE_ERROR
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("distributed", "preprocess"),
        ("dask_jobqueue", "preprocess"),
        ("PIL.Image", "preprocess"),
        ("torch", "train"),
        ("nvidia.dali", "train"),
        ("s3fs", "s3"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_brings_it(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)  # another test may have imported it
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    said = ends(lambda: importlib.import_module(module), monkeypatch, capsys)
    assert said.startswith("error: a package is missing: ")
    assert module.partition(".")[0] in said
    assert f"pip install '.[{extra}]'" in said


def test_a_url_without_the_package_for_it_is_told_which(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    said = ends(lambda: Store.open("gs://bucket/brats.zarr"), monkeypatch, capsys)
    assert "a package is missing: Please install gcsfs" in said
    assert "pip install '." not in said


def test_brackets_are_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/data/[old]/x[/b].zarr"

    def work() -> None:
        console.err.print(f"→ {path}")
        raise OSError(28, "No space left on device", path)

    said = ends(work, monkeypatch, capsys)
    assert f"→ {path}\n" in said
    assert said.count(path) == 2

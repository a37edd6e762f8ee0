"""How both command lines end."""

import importlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
from rich.table import Table

from common import console
from common.store import Store

COMMANDS = """
import time, typer
from common import console

app = typer.Typer(cls=console.Commands, pretty_exceptions_enable=False, add_completion=False)

@app.command()
def write():
    for _ in range(5000):
        console.out.print("line")
    raise typer.Exit(7)

@app.command()
def as_json():
    print(list(range(100_000)))

@app.command()
def wait():
    console.out.print("waiting")
    time.sleep(60)

console.run(app)
"""
"""A program with commands, for a process of its own."""


def started(*arguments: str, **streams: object) -> subprocess.Popen[bytes]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen([sys.executable, "-c", COMMANDS, *arguments], **streams)  # type: ignore[call-overload]


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


def test_no_control_character_of_a_name_reaches_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("case")
    table.add_row("[red]x[/]\x1b[31m\u202ey")
    console.out.print(table)
    console.out.print("a\x9bb\x00c\udcffd\ne", soft_wrap=True)
    said = capsys.readouterr().out
    assert r"[red]x[/]\x1b[31m\u202ey" in said
    assert said.endswith("a\\x9bb\\x00c\\udcffd\ne\n")


def test_a_command_goes_on_when_nobody_reads_it_any_more() -> None:
    process = started("write")
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 7


@pytest.mark.parametrize("command", ["write", "as-json"])
def test_a_full_disk_under_the_output_is_one_line(command: str) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123 - a device
        process = started(command, stdout=full)
        errors = process.communicate()[1].decode()
    assert process.returncode == console.USAGE_ERROR
    assert errors.count("\n") == 1
    assert "No space left" in errors


def test_output_that_is_closed_is_no_error() -> None:
    closed = f"exec {sys.executable} -c '{COMMANDS}' write >&- 2>&-"
    assert subprocess.run(["sh", "-c", closed], check=False).returncode == 7


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_any_request_to_stop_ends_a_command_with_a_line(asked: signal.Signals) -> None:
    process = started("wait")
    assert process.stdout
    assert process.stdout.readline() == b"waiting\n"
    process.send_signal(asked)
    assert process.communicate()[1] == b"interrupted\n"
    assert process.returncode == console.INTERRUPTED


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 16.0 GiB"),
        ImportError("libX.so: failed to map segment from shared object"),
        OSError(36, "File name too long", "x"),
    ],
)
def test_what_the_machine_refuses_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        raise error

    said = ends(work, monkeypatch, capsys)
    assert said.count("\n") == 1
    assert str(error) in said
    assert ("not enough memory" in said) == (not isinstance(error, OSError))

"""`make gpu-check`: these tests run where tests/gpu is named on the command line, else never."""

import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from gpu_check import Check, Row, table
from rich.console import Console
from rich.rule import Rule

from benchmarks.sections import Bench, free, headline, prepared
from train.precision import choose_compute

CROP = 128
"""Side of synthetic crops, in voxels."""
CHECK = pytest.StashKey[Check]()
ORDER = ("samples", "resume", "memory", "waits", "precision")
"""The last takes as long as there is time."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gpu-check")
    group.addoption("--dry", action="store_true", help="on the CPU, with tiny networks")
    group.addoption("--device", default="auto", help="auto, cuda or cuda:N; in a dry run also cpu")
    group.addoption("--store", default="", help="without it synthetic cases are generated")
    group.addoption("--minutes", type=float, default=20.0, help="time for all checks")
    group.addoption("--out", default=None, help="a JSON file for all raw figures, or a folder/")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where this folder is not named, none of its tests runs."""
    own = [item for item in items if item.get_closest_marker("gpu")]
    if not own:
        return
    here = Path(__file__).parent
    named = [Path(argument.partition("::")[0]).resolve() for argument in config.args]
    if not any(path.is_relative_to(here) for path in named):
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]
        return
    own.sort(key=lambda item: ORDER.index(check_name(item)))
    items[:] = own
    _device(config)
    for item in own:  # they take what they take, and a driver's warning is no failure
        item.add_marker(pytest.mark.timeout(0))
        item.add_marker(pytest.mark.filterwarnings("default"))


def _device(config: pytest.Config) -> torch.device:
    """What is checked.

    Raises:
        pytest.UsageError: there is no GPU, and this is no dry run.
    """
    dry, name = config.getoption("dry"), config.getoption("device")
    device = choose_compute("cpu" if dry and name == "auto" else name, "auto").device
    if device.type != "cuda" and not dry:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        raise pytest.UsageError(
            f"gpu-check needs a GPU; torch, built with {built}, finds "
            f"{torch.cuda.device_count()} devices for device={name}. Run it on a machine that has "
            "one, or try the checks on the CPU: make gpu-check DRY=1"
        )
    return device


@pytest.fixture(scope="session")
def all_checks(pytestconfig: pytest.Config) -> Iterator[Check]:
    """The device, the store and the rows of all checks."""
    named = pytestconfig.getoption
    device, dry, minutes = _device(pytestconfig), named("dry"), named("minutes")
    with prepared(
        device, named("store"), CROP, dry=dry, minutes=minutes, out_path=named("out")
    ) as (store, figures):
        bench = Bench(device, store, time.monotonic() + 60 * minutes, dry)
        pytestconfig.stash[CHECK] = Check(bench, figures)
        yield pytestconfig.stash[CHECK]


@pytest.fixture
def check(all_checks: Check, request: pytest.FixtureRequest) -> Iterator[Check]:
    """The same, for one test."""
    all_checks.current = check_name(request.node)
    yield all_checks
    all_checks.save()
    free(all_checks.device)


def check_name(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that breaks is a failed row too, as where memory or a driver is not enough."""
    report = yield
    check = item.config.stash.get(CHECK, None)
    broke = report.failed and call.excinfo and not call.excinfo.errisinstance(AssertionError)
    if check and broke and call.excinfo:
        why = f"{call.excinfo.typename}: {call.excinfo.value}"
        if call.excinfo.errisinstance(torch.OutOfMemoryError):
            why = f"does not fit into the device's memory: {call.excinfo.value}"
        check.current = check_name(item)
        check.note(Row(item.name, "FAILED", why))
    return report


def pytest_terminal_summary(config: pytest.Config) -> None:
    """The rows of each check."""
    check = config.stash.get(CHECK, None)
    if check is None:
        return
    console = Console(soft_wrap=True)
    console.print("", headline(check.figures.content), sep="\n")
    for name, rows in check.rows.items():
        console.print(Rule(name, align="left"), table(rows), "")
    counts = Counter(row.status for rows in check.rows.values() for row in rows)
    console.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if not check.on_gpu:
        console.print("dry run on a CPU: the checks run; this says nothing about a GPU")
    if check.figures.file:
        console.print(f"figures: {check.figures.file}")

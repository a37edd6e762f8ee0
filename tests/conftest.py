"""What holds for every test."""

import os
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

ALLOWED_SKIPS = ("no GPU", "no real cases")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that is skipped for want of anything that CI installs has failed."""
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module."""
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (os.environ.get("CI") and report.skipped) or hasattr(report, "wasxfail"):
        return
    if isinstance(report, pytest.TestReport) and "gpu" in report.keywords:
        return  # its table says what could not be checked, and why
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if reason.removeprefix("Skipped: ") not in ALLOWED_SKIPS:
        allowed = " or ".join(repr(name) for name in ALLOWED_SKIPS)
        report.outcome = "failed"
        report.longrepr = f"{reason}: in CI only {allowed} may skip a test"


@pytest.fixture(scope="session")
def real_cases() -> Path:
    """The folder of real cases, with `brats`, `unlabelled` and `odd` in it."""
    named = os.environ.get("BRATS_CASES")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "brats").is_dir():
        pytest.skip("no real cases")
    return folder


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of a service on this machine that speaks S3's protocol."""
    from moto.server import ThreadedMotoServer  # not imported where these tests do not run

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what runs in its background deaf to Ctrl-C, and so would be every child."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk of its own: mounted with these options, and again with others."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        remount = "remount," if place.is_mount() else ""
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", remount + options, "tmpfs", str(place)], check=True
        )
        return place

    yield mount
    subprocess.run(["umount", str(place)], check=True)

"""In CI nothing is skipped for want of what CI installs."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

def test_runs():
    pass

@pytest.mark.skip(reason="no GPU")
def test_needs_a_gpu():
    pass

@pytest.mark.skip(reason="no real cases")
def test_needs_real_cases():
    pass

@pytest.mark.xfail(reason="known")
def test_known_to_fail():
    assert False
"""

SKIPPED_TEST = """
import pytest

def test_needs_a_program():
    pytest.skip("no chromium")
"""

SKIPPED_MODULE = """
import pytest

pytest.importorskip("a_package_that_nobody_has", reason="not installed")

def test_something():
    pass
"""


def run(folder: Path, text: str, *, ci: bool) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_bytes(Path(__file__).with_name("conftest.py").read_bytes())
    (folder / "test_one.py").write_text(text)
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--rootdir",
            str(folder),
            str(folder),
            "-p",
            "no:cacheprovider",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        timeout=120,
        env=environment | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | ({"CI": "true"} if ci else {}),
    )


def test_a_missing_gpu_and_missing_cases_may_skip(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS, ci=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 2 skipped, 1 xfailed" in done.stdout


def test_any_other_skip_fails_in_ci(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPED_TEST, ci=True)
    assert done.returncode == 1
    assert "no chromium: in CI only 'no GPU' or 'no real cases' may skip a test" in done.stdout


def test_a_skipped_module_fails_in_ci(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPED_MODULE, ci=True)
    assert done.returncode not in (0, 5)
    assert "not installed: in CI only" in done.stdout


def test_elsewhere_a_skip_is_a_skip(tmp_path: Path) -> None:
    done = run(tmp_path, SKIPPED_TEST, ci=False)
    assert done.returncode == 0
    assert "1 skipped" in done.stdout

"""Every kind of odd input, one after the other."""

from pathlib import Path

import pytest

from tests.preprocess.odd.build import Build
from tests.preprocess.odd.inputs import ERRORS, GOOD, LEFT_OUT, SPLITS, WARNINGS, Lists


@pytest.fixture(params=ERRORS)
def error(request: pytest.FixtureRequest) -> tuple[Build, str]:
    """Something that keeps a case out when its files are read, and what is found."""
    return ERRORS[request.param]


@pytest.fixture(params=LEFT_OUT)
def left_out(request: pytest.FixtureRequest) -> tuple[Build, str]:
    """Something that makes no case, and what is found."""
    return LEFT_OUT[request.param]


@pytest.fixture(params=WARNINGS)
def warning(request: pytest.FixtureRequest) -> tuple[Build, str]:
    """Something that keeps nothing out, and what is found."""
    return WARNINGS[request.param]


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest) -> tuple[Build, Lists, str, str, str]:
    """Something about splits: cases, lists, what is found, what to do, and its severity."""
    return SPLITS[request.param]


@pytest.fixture(scope="session")
def keeps_out() -> dict[str, Build]:
    """All that keeps a case out, by name."""
    return {name: build for name, (build, _) in ERRORS.items()}


@pytest.fixture(scope="session")
def everything() -> dict[str, Build]:
    """All that needs no splits, by name."""
    return {name: build for name, (build, _) in (ERRORS | LEFT_OUT | WARNINGS).items()}


@pytest.fixture(scope="session")
def all_splits() -> list[tuple[Build, Lists]]:
    """All that is about splits."""
    return [(build, lists) for build, lists, *_ in SPLITS.values()]


@pytest.fixture(params=GOOD)
def good(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of one case with nothing to say of it."""
    GOOD[request.param](tmp_path)
    return tmp_path

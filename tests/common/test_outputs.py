"""Where a command may write is known before it works."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from common.errors import ConfigError
from common.outputs import check_output

Kind = Literal["file", "folder"]

MAKE: dict[str, Callable[[Path], object]] = {
    "file": Path.touch,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to a device": lambda path: path.symlink_to("/dev/null"),
    "link to a file": lambda path: (path.with_name("own").touch(), path.symlink_to("own")),
    "link to a folder": lambda path: (path.with_name("own").mkdir(), path.symlink_to("own")),
}


@pytest.mark.parametrize(
    ("kind", "allowed"), [("file", {"file"}), ("folder", {"folder", "link to a folder"})]
)
@pytest.mark.parametrize("there", MAKE)
def test_only_what_is_asked_for_may_be_there(
    tmp_path: Path, kind: Kind, allowed: set[str], there: str
) -> None:
    MAKE[there](tmp_path / "it")
    before = sorted(tmp_path.iterdir())
    if there in allowed:
        check_output(tmp_path / "it", kind)
    else:
        with pytest.raises(ConfigError, match=f"^{tmp_path}/it: "):
            check_output(tmp_path / "it", kind)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_new_name_may_be_below_folders_that_are_not_there_yet(tmp_path: Path, kind: Kind) -> None:
    check_output(tmp_path / "a" / "b" / "it", kind)
    (tmp_path / "a").touch()
    with pytest.raises(ConfigError, match=r"a is no folder"):
        check_output(tmp_path / "a" / "b" / "it", kind)
    for name in ("x" * 256, "y" * 5000, "dir::x"):
        with pytest.raises(ConfigError):
            check_output(tmp_path / name, kind)
    with pytest.raises(ConfigError, match="an address"):
        check_output(Path("s3://bucket/it"), kind)

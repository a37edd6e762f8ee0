"""A file is the old one or the new one, whatever happens while it is written."""

import os
from pathlib import Path

import pytest

from common.files import replacing, write_json, write_parts, write_text


def test_a_file_is_made_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for parts in ([b"a", b"bc"], [b"d"]):
        write_parts(path, parts)
        assert path.read_bytes() == b"".join(parts)
    write_text(path, "µ\n")
    assert path.read_text("utf-8") == "µ\n"
    write_json(path, {"a": 1.5})
    assert path.read_text() == '{\n  "a": 1.5\n}\n'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_no_other(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="no space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    path, via = tmp_path / "mask.nii.gz", tmp_path / ".mask.partial.nii.gz"

    def interrupted() -> None:
        with replacing(path, via=via) as unfinished:
            unfinished.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_not_a_number_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", {"a": float("nan")})
    assert not list(tmp_path.iterdir())

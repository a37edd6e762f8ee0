"""Only files are read; one is the old one or the new one, whatever happens while it is written."""

import errno
import os
from pathlib import Path

import pytest
from folders import NO_FILES
from limits import files_of_at_most

from common.errors import InputError
from common.files import (
    read_bytes,
    read_json,
    read_text,
    replacing,
    write_json,
    write_parts,
    write_text,
    write_texts,
)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_by_its_kind(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    NO_FILES[kind](path)
    with pytest.raises(InputError, match=rf"{path}: {kind}"):
        read_bytes(path, 10)


def test_a_file_is_read_up_to_a_size(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"1234")
    link.symlink_to(path)
    assert read_bytes(link, 4) == b"1234"
    with pytest.raises(InputError, match=str(path)):
        read_bytes(path, 3)


@pytest.mark.parametrize(
    "content",
    [b'{"a": "caf\xe9"}', '{"a": 1}'.encode("utf-16"), b"[" * 100_000, b"1" * 10_000, b"{"],
)
def test_json_that_cannot_be_read_is_one_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{path}: [^\n]*$"):
        read_json(path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"a": 1}', "utf-8-sig")
    assert read_text(path) == '{"a": 1}'
    assert read_json(path) == {"a": 1}


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
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(*((os, "fsync", fail) if call == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match=f"no space .*{path.name}"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("large", range(3))
def test_several_files_are_written_all_or_none(large: int, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "abc"]
    write_texts(dict.fromkeys(paths, "old"))
    texts = {path: "new" * (1000 if n == large else 1) for n, path in enumerate(paths)}
    with files_of_at_most(2000), pytest.raises(OSError, match=paths[large].name):
        write_texts(texts)
    assert [path.read_text() for path in paths] == ["old"] * 3
    write_texts(texts)
    assert [path.read_text() for path in paths] == list(texts.values())
    assert sorted(tmp_path.iterdir()) == paths


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

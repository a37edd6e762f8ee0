"""Links and names in a store: nothing outside of it is read for a part of it, or removed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.case import PreparedCase
from common.errors import UnsafeError
from common.store import Store, StoreWriter
from common.store.audit import Audit, audit_case, case_folders, conclude, repair

Cases = dict[str, PreparedCase]
MakeStore = Callable[..., StoreWriter]


def audit(path: str) -> Audit:
    store = Store.open(path)
    return conclude(store, [audit_case(store, case) for case in case_folders(store)])


def moved(path: Path, outside: Path) -> None:
    """Moves a file or a folder outside of the store and leaves a link."""
    shutil.move(path, outside)
    path.symlink_to(outside)


def files_below(path: Path) -> dict[Path, bytes]:
    whole = {path: path.read_bytes()} if path.is_file() else {}
    return whole | {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "part", ["cases/one", "cases/one/zarr.json", "cases/one/image", "cases/one/image/c/0/0/0/0"]
)
def test_a_link_in_a_case_is_named_and_what_it_points_to_stays(
    part: str, make_store: MakeStore, cases: Cases, tmp_path: Path
) -> None:
    store = make_store("one", "two")
    outside = tmp_path / "outside"
    moved(Path(store.path, part), outside)
    before = files_below(outside)
    found = audit(store.path)
    (case,) = found.of("unreadable")
    assert case.case_id == "one"
    assert f"{part} is a symbolic link" in case.what
    assert not found.sound
    assert list(repair(store, found)) == []
    for change in (lambda: store.remove("one"), lambda: store.write(cases["one"], 0)):
        with pytest.raises(UnsafeError, match=part):
            change()
    assert Path(store.path, part).is_symlink()
    assert files_below(outside) == before
    Store.open(store.path).verify("two")


def test_a_link_that_no_case_needs_is_removed_and_what_it_points_to_stays(
    make_store: MakeStore, tmp_path: Path
) -> None:
    store = make_store("one")
    (tmp_path / "outside").write_text("mine")
    (row,) = store.allocate(1)
    Path(store.path, f"crops/image/c/{row}").symlink_to(tmp_path)
    Path(store.path, "x.partial").symlink_to(tmp_path / "outside")
    found = audit(store.path)
    assert set(found.leftovers) == {f"crops/image/c/{row}", "x.partial"}
    list(repair(store, found))
    assert not Path(store.path, f"crops/image/c/{row}").is_symlink()
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_store_behind_a_link_is_used(make_store: MakeStore, cases: Cases, tmp_path: Path) -> None:
    make_store("one", path=tmp_path / "disk.zarr")
    link = tmp_path / "s.zarr"
    link.symlink_to(tmp_path / "disk.zarr")
    store = StoreWriter(link)
    store.write(cases["one"], store.allocate(1)[0])
    assert audit(str(link)).sound
    assert list(Store.open(link).contents().records) == ["one"]


@pytest.mark.parametrize("name", ["back\\slash", "two\nlines", "\x1b[2J", "~root", "a::b"])
def test_a_folder_with_an_unsafe_name_is_no_case_and_is_left_alone(
    name: str, make_store: MakeStore
) -> None:
    store = make_store("one")
    folder = Path(store.path, "cases", name)
    shutil.copytree(Path(store.path, "cases/one"), folder)
    contents = Store.open(store.path).contents()
    assert list(contents.records) == ["one"]
    assert list(contents.failures) == [name]
    found = audit(store.path)
    (case,) = found.of("unreadable")
    assert case.case_id == name
    assert case.what.isprintable()
    assert list(repair(store, found)) == []
    assert folder.is_dir()


def test_a_named_pipe_in_a_case_is_named_and_nobody_waits_for_it(make_store: MakeStore) -> None:
    store = make_store("one", "two")
    for part in ("zarr.json", "image/c/0/0/0/0"):
        file = Path(store.path, "cases/one", part)
        content = file.read_bytes()
        file.unlink()
        os.mkfifo(file)
        (case,) = audit(store.path).of("unreadable")
        assert f"cases/one/{part}" in case.what
        contents = Store.open(store.path).contents()  # what report, predict and training read
        assert (list(contents.records), list(contents.failures)) == (["two"], ["one"])
        file.unlink()
        file.write_bytes(content)
    assert audit(store.path).sound

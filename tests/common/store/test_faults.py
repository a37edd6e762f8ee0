"""What a crash, a full disk or a bad one can leave behind, and that nobody reads it."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from common.case import PreparedCase
from common.errors import StoreError
from common.store import Store, StoreWriter
from common.store.audit import Audit, audit_case, case_folders, conclude, repair
from common.store.files import StoreFiles
from common.store.writer import create_arrays

Cases = dict[str, PreparedCase]
MakeStore = Callable[..., StoreWriter]

ARRAYS = ("crops/image", "crops/label", "cases/one/image", "cases/one/label")

WRITER = """
import sys
from pathlib import Path
from common.case import prepare
from common.discovery import discover
from common.manifest import load_manifest
from common.store import StoreWriter

data, path, manifest = Path(sys.argv[1]), sys.argv[2], load_manifest(Path(sys.argv[3]))
cases = [prepare(files, manifest) for files in discover(data, manifest).cases]
store = StoreWriter.create(path, manifest)
print("ready", flush=True)
while True:
    for case, row in zip(cases, store.allocate(len(cases)), strict=True):
        store.write(case, row)
"""

ONE_CASE = """
import os, signal, sys
from pathlib import Path
from common.case import prepare
from common.discovery import discover
from common.manifest import load_manifest
from common.store import StoreWriter

manifest = load_manifest(Path(sys.argv[3]))
found = discover(Path(sys.argv[1]), manifest).cases
(case,) = (prepare(files, manifest) for files in found if files.case_id == "one")

def write(left):
    store = StoreWriter(sys.argv[2])
    (row,) = store.allocate(1)

    def at(event, arguments):
        nonlocal left
        if event in ("os.rename", "os.remove"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(at)
    store.write(case, row)
    os._exit(0)

for line in sys.stdin:
    child = os.fork() or write(int(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Writes a case for each number n that it is told, each time in a process that is killed before its
n-th file gets its name or is taken away; says how each ended."""


def shard(store: Store, array: str) -> Path:
    """The one file with the voxels of case `one` in an array."""
    row = "c/0" if array.startswith("crops") else "c"
    (file,) = (p for p in Path(store.path, array, row).rglob("*") if p.is_file())
    return file


def read(store: Store, array: str) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """The image and the label of case `one`: its crop, or its whole volume."""
    if array.startswith("crops"):
        return store.read_crop("one")
    image, label = store.read_volume("one")
    assert label is not None
    return image, label


def readers(path: str) -> list[Store]:
    """zarrs for a path, zarr-python for a URL."""
    return [Store.open(path), Store.open(f"file://{path}")]


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def removed(file: Path) -> None:
    file.unlink()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def zeroed(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def noise(file: Path) -> None:
    size = file.stat().st_size
    file.write_bytes(np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes())


@pytest.mark.parametrize("damage", [emptied, removed, cut, zeroed, noise])
@pytest.mark.parametrize("array", ARRAYS)
def test_a_damaged_shard_is_refused_by_both_readers(
    array: str, damage: Callable[[Path], None], make_store: MakeStore
) -> None:
    store = make_store("one", "two")
    damage(shard(store, array))
    for reader in readers(store.path):
        with pytest.raises(StoreError, match=r"case one: .*(preprocess again|never written)"):
            read(reader, array)
        with pytest.raises(StoreError, match="case one"):
            reader.verify("one")
        reader.verify("two")


@pytest.mark.parametrize("array", ARRAYS)
def test_a_flipped_byte_is_noticed_or_changes_nothing(
    array: str, make_store: MakeStore, cases: Cases
) -> None:
    """It changes nothing where a volume's last chunk reaches beyond the volume."""
    store = make_store("one")
    file = shard(store, array)
    content = file.read_bytes()
    noticed = 0
    for position in np.linspace(0, len(content) - 1, 40, dtype=int):
        changed = bytearray(content)
        changed[position] ^= 0x5A
        file.write_bytes(bytes(changed))
        for reader in readers(store.path):
            try:
                image, label = read(reader, array)
            except StoreError:
                noticed += 1
            else:
                whole = array.startswith("cases")
                case = cases["one"]
                assert np.array_equal(image, case.image if whole else case.crop_image)
                assert np.array_equal(label, case.label if whole else case.crop_label)
    assert noticed >= 70


def test_a_shard_of_another_case_is_noticed(make_store: MakeStore) -> None:
    store = make_store("one", "two")
    for name in ("image", "label"):
        source, target = (Path(store.path, f"crops/{name}/c/{row}") for row in (1, 0))
        shutil.rmtree(target)
        shutil.copytree(source, target)
    with pytest.raises(StoreError, match="crops/image is not what was written"):
        store.verify("one")


def test_rows_that_were_never_written_are_refused(make_store: MakeStore) -> None:
    store = make_store("one")
    record = store.record("one").model_copy(update={"row": store.allocate(3)[0]})
    group = zarr.open_group(store.path, mode="r+")["cases/one"]
    group.attrs.put({"record": record.model_dump(mode="json")})
    for reader in readers(store.path):
        with pytest.raises(StoreError, match="a part of its image is gone, or was never written"):
            reader.read_crop("one")
        with pytest.raises(StoreError, match="a part of its image is gone, or was never written"):
            reader.read_crop_image("one")
    beyond = record.model_copy(update={"row": 99})
    group.attrs.put({"record": beyond.model_dump(mode="json")})
    for reader in readers(store.path):
        with pytest.raises(StoreError, match="crops/image is damaged"):
            reader.read_crop("one")


def test_a_missing_array_is_said(make_store: MakeStore) -> None:
    store = make_store("one")
    shutil.rmtree(Path(store.path, "cases/one/image"))
    with pytest.raises(
        StoreError, match=r"cases/one/image/zarr.json is missing; .*verify --repair"
    ):
        Store.open(store.path).read_volume("one")


def test_a_record_of_another_form_is_said(make_store: MakeStore) -> None:
    store = make_store("one")
    group = zarr.open_group(store.path, mode="r+")["cases/one"]
    group.attrs.put({"record": {"case_id": "one"}})
    with pytest.raises(StoreError, match=r"case one: its record .*: has_label: Field .*--repair"):
        store.record("one")


def test_without_its_record_a_case_is_not_there(make_store: MakeStore, cases: Cases) -> None:
    """Every array written and not the record: the last instant before the commit."""
    store = make_store("one", "two")
    metadata = Path(store.path, "cases/one/zarr.json")
    content = json.loads(metadata.read_text())
    content["attributes"] = {}
    metadata.write_text(json.dumps(content))
    reader = Store.open(store.path)
    assert list(reader.contents().records) == ["two"]
    assert reader.contents().splits["train"] == ["two"]
    with pytest.raises(StoreError, match="case one is not in this store"):
        reader.read_crop("one")
    writer = StoreWriter(store.path)
    writer.write(cases["one"], writer.allocate(1)[0])
    Store.open(store.path).verify("one")


def test_a_case_half_removed_or_begun_can_be_written_again(
    make_store: MakeStore, cases: Cases
) -> None:
    store = make_store("one", "two", "three")
    Path(store.path, "cases/one/zarr.json").unlink()  # its arrays are still there
    begun = Path(store.path, "cases/two")
    shutil.rmtree(begun)
    begun.mkdir()
    (begun / "zarr.0123.partial").write_bytes(b"{")
    reader = Store.open(store.path)
    assert list(reader.contents().records) == ["three"]
    writer = StoreWriter.create(store.path, store.manifest)
    for case_id, row in zip(("one", "two"), writer.allocate(2), strict=True):
        writer.write(cases[case_id], row)
    assert list(Store.open(store.path).contents().records) == ["one", "three", "two"]
    for case_id in ("one", "two", "three"):
        Store.open(store.path).verify(case_id)


def test_rows_are_never_given_out_twice_after_a_broken_resize(make_store: MakeStore) -> None:
    store = make_store("one", "two")
    image = zarr.open_group(store.path, mode="r+")["crops/image"]
    image.resize((7, *image.shape[1:]))  # killed before the labels were resized too
    assert StoreWriter(store.path).allocate(2) == [7, 8]
    root = zarr.open_group(store.path, mode="r")
    assert root["crops/image"].shape[0] == root["crops/label"].shape[0] == 9


def test_a_store_that_was_only_begun_is_none_and_is_made_again(
    make_store: MakeStore, cases: Cases, tmp_path: Path
) -> None:
    manifest = make_store("one").manifest
    states: list[Callable[[Path], object]] = [
        lambda path: path.mkdir(),
        lambda path: (path.mkdir(), (path / "zarr.ab.partial").write_bytes(b"{")),
        lambda path: zarr.create_group(store=str(path)),
        lambda path: create_arrays(StoreFiles(str(path)), manifest),
    ]
    for number, begin in enumerate(states):
        path = tmp_path / f"begun{number}.zarr"
        begin(path)
        with pytest.raises(StoreError, match="no store is there"):
            Store.open(path)
        store = StoreWriter.create(path, manifest)
        store.write(cases["one"], store.allocate(1)[0])
        Store.open(path).verify("one")


@pytest.mark.slow
def test_kills_at_any_instant_leave_whole_cases_only(
    data: Path, tmp_path: Path, make_store: MakeStore, cases: Cases
) -> None:
    """A writer that writes its cases again and again is killed ten times, ever later."""
    manifest = make_store("one", path=tmp_path / "model.zarr").manifest
    (tmp_path / "m.yaml").write_text(manifest.to_yaml())
    path = tmp_path / "s.zarr"
    random, seen = np.random.default_rng(0), 0
    for kill in itertools.count(1):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(data), str(path), str(tmp_path / "m.yaml")],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[3],
        )
        assert writer.stdout is not None
        with writer.stdout:
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(random.uniform(0.0, 0.05 * kill))
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait(timeout=60)
        store = Store.open(path)
        for case_id in store.contents().records:
            store.verify(case_id)
            seen += 1
        if kill >= 10 and seen > 5:
            break
    store = StoreWriter.create(path, manifest)
    for case, row in zip(cases.values(), store.allocate(len(cases)), strict=True):
        store.write(case, row)
    assert list(Store.open(path).contents().records) == sorted(cases)


def audit(path: str) -> Audit:
    store = Store.open(path)
    return conclude(store, [audit_case(store, case) for case in case_folders(store)])


@pytest.mark.slow
def test_a_kill_before_each_file_of_a_case_costs_that_case_at_most(
    data: Path, tmp_path: Path, make_store: MakeStore, cases: Cases
) -> None:
    """A case is written again and killed over every file in turn, from its old record on."""
    store = make_store("one", "two")
    (tmp_path / "m.yaml").write_text(store.manifest.to_yaml())
    writer = subprocess.Popen(
        [sys.executable, "-c", ONE_CASE, str(data), store.path, str(tmp_path / "m.yaml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    there, ended = [], -signal.SIGKILL
    with writer, writer.stdin, writer.stdout:
        while ended == -signal.SIGKILL:
            writer.stdin.write(f"{len(there)}\n")
            writer.stdin.flush()
            ended = int(writer.stdout.readline())
            found = audit(store.path)
            assert not found.of("damaged", "unreadable")
            assert "two" in Store.open(store.path).contents().records
            there.append("one" in Store.open(store.path).contents().records)
            list(repair(store, found))
            store.write(cases["one"], store.allocate(1)[0])
            found = audit(store.path)
            assert found.sound
            assert not found.leftovers
    assert ended == 0
    # First the old record, at last the new one, and in between none.
    assert there[0]
    assert there[-1]
    assert not any(there[1:-1])
    assert len(there) > 10

"""Every way in which a store can break its contract is named, dropped, and can be made again."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from common.case import PreparedCase
from common.errors import StoreError
from common.record import CaseFailure
from common.store import Store, StoreWriter
from common.store.audit import Audit, audit_case, case_folders, conclude, repair

Cases = dict[str, PreparedCase]
MakeStore = Callable[..., StoreWriter]
Break = Callable[[StoreWriter, Cases], object]


def audit(written: Store) -> Audit:
    store = Store.open(written.path)
    return conclude(store, [audit_case(store, case) for case in case_folders(store)])


def case_of(found: Audit, case_id: str) -> tuple[str, str]:
    (case,) = (case for case in found.cases if case.case_id == case_id)
    return case.state, case.what


def record(**changes: Any) -> Break:
    """Changes the record of case `one`; a callable is given the old value."""

    def edit(store: StoreWriter, _: Cases) -> None:
        group = zarr.open_group(store.path, mode="r+")["cases/one"]
        old = group.attrs["record"]
        new = {n: c(old[n]) if callable(c) else c for n, c in changes.items()}
        group.attrs.put({"record": old | new})

    return edit


def written(edit: Callable[[PreparedCase], PreparedCase], case_id: str = "one") -> Break:
    """Writes a case that no preparation gives, with the checksums of its bytes."""
    return lambda store, cases: store.write(edit(cases[case_id]), store.allocate(1)[0])


def with_voxel(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.copy()
    changed.flat[5] = value
    return changed


def label_for_the_unlabelled(store: StoreWriter, cases: Cases) -> None:
    row = store.record("one").row
    rows = zarr.open_group(store.path, mode="r+")["crops/label"]
    store.write(cases["unlabelled"], row)
    rows[row] = 0
    store.files.remove_case("one")


def twin_in_its_row(store: StoreWriter, cases: Cases) -> None:
    case, row = cases["one"], store.record("one").row
    twin = replace(case, record=case.record.model_copy(update={"case_id": "twin"}))
    assert row is not None
    store.write(twin, row)


def moved(box: dict[str, Any]) -> dict[str, Any]:
    return box | {"start": [box["start"][0] + 1, *box["start"][1:]]}


BROKEN: dict[str, tuple[str, Break, str]] = {
    "no row": ("one", record(row=None), "its row, None, is not in the crops"),
    "a row before the first": ("one", record(row=-1), "its row, -1, is not in the crops"),
    "a row beyond the last": ("one", record(row=9), "its row, 9, is not in the crops"),
    "a row of another": ("one", record(row=0), "crops/image is not what was written"),
    "a row of its twin": ("one", twin_in_its_row, "another case's record names its row too"),
    "another case's record": ("one", record(case_id="two"), "its record is that of two"),
    "no such field": ("one", record(mood="good"), "mood: "),
    "a file too few": ("one", record(sources=lambda old: old[1:]), "its record names files for"),
    "no label": ("one", record(has_label=False), "its record names files for"),
    "a grid that its files do not give": (
        "one",
        record(grid_shape=lambda old: [old[0] + 1, *old[1:]]),
        "its record has a grid of",
    ),
    "a grid that no memory holds": (
        "one",
        record(geometry=lambda old: old | {"shape": [10**6, 10**6, 10**6]}),
        "its record has a grid of",
    ),
    "a spacing of nothing": (
        "one",
        record(spacing_mm=0.0, geometry=lambda old: old | {"spacing_mm": [2, 2, 2]}),
        "geometry without meaning",
    ),
    "more tumour in the box than in all": (
        "one",
        record(tumour_voxels=lambda old: old | {"native": dict.fromkeys(old["native"], 0)}),
        "its record counts",
    ),
    "statistics of nothing": (
        "one",
        record(mean={}),
        "its record has statistics of []",
    ),
    "no counts": ("one", record(tumour_voxels=None), "contradicts itself"),
    "another window": ("one", record(crop=moved), "not the window of the whole volume"),
    "another box": (
        "one",
        record(box=lambda old: old | {"shape": [9, 9, 9]}),
        "image/zarr.json is damaged: it does not describe float16 (4, 9, 9, 9)",
    ),
    "another crop": (
        "one",
        record(crop=lambda old: old | {"shape": [9, 9, 9]}),
        "its record names a crop of (9, 9, 9)",
    ),
    "a checksum too few": (
        "one",
        record(checksums=lambda old: {"image": old["image"]}),
        "its record has checksums of ['image']",
    ),
    "NaN": (
        "one",
        written(lambda case: replace(case, image=with_voxel(case.image, np.nan))),
        "image has voxels that are NaN or infinite",
    ),
    "infinity": (
        "one",
        written(lambda case: replace(case, crop_image=with_voxel(case.crop_image, np.inf))),
        "crops/image has voxels that are NaN or infinite",
    ),
    "a label value": (
        "one",
        written(lambda case: replace(case, label=with_voxel(case.label, 4))),
        "label has the value 4, labels are [0, 1, 2, 3]",
    ),
    "another tumour": (
        "one",
        written(lambda case: replace(case, crop_label=with_voxel(case.crop_label, 2))),
        "crops/label has {'ncr'",
    ),
    "another type": (
        "one",
        written(lambda case: replace(case, image=case.image.astype(np.float32))),
        "image/zarr.json is damaged",
    ),
    "a label that should not be": ("unlabelled", label_for_the_unlabelled, "has no label"),
    "a failure that says nothing": (
        "one",
        lambda store, _: zarr.open_group(store.path)["cases/one"].attrs.put({"failure": {}}),
        "its failure is not readable: case_id",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_contract(name: str, make_store: MakeStore, cases: Cases) -> None:
    victim, damage, text = BROKEN[name]
    store = make_store("two", "one")
    sound = audit(store)
    assert sound.sound
    assert not sound.leftovers
    damage(store, cases)
    found = audit(store)
    state, what = case_of(found, victim)
    assert state == "damaged"
    assert text in what
    assert f"verify --repair {store.path}" in what
    assert not found.sound
    dropped = list(repair(store, found))
    assert f"case {victim}" in dropped
    Store.open(store.path).verify("two")
    after = audit(store)
    assert not after.of("damaged", "unfinished")
    assert not after.leftovers
    assert set(after.missing) >= {victim} & set(store.expected)
    for case_id in after.missing:
        store.write(cases[case_id], store.allocate(1)[0])
    again = audit(store)
    assert again.sound
    assert not again.leftovers


def test_what_killed_writers_leave_is_no_damage_and_is_removed(
    make_store: MakeStore, cases: Cases
) -> None:
    store = make_store("one", "two")
    path = Path(store.path)
    row = store.allocate(1)[0]
    zarr.open_group(store.path, mode="r+")["crops/image"][row] = 1
    (path / "crops/image/c/0/0/0/0/0.ab.partial").write_bytes(b"x")
    (path / "zarr.cd.partial").write_bytes(b"x")
    (path / "cases/begun").mkdir()
    (path / "cases/begun/zarr.ef.partial").write_bytes(b"{")
    zarr.open_group(store.path, mode="r+").create_group("cases/without-record")
    found = audit(store)
    assert found.sound
    assert [case.case_id for case in found.of("unfinished")] == ["begun", "without-record"]
    assert set(found.leftovers) == {
        "crops/image/c/0/0/0/0/0.ab.partial",
        f"crops/image/c/{row}/0/0/0/0",
        "zarr.cd.partial",
    }
    list(repair(store, found))
    after = audit(store)
    assert [case.case_id for case in after.cases] == ["one", "two"]
    assert after.sound
    assert not after.leftovers


def test_a_case_that_failed_or_was_never_tried_is_missing(
    make_store: MakeStore, cases: Cases
) -> None:
    store = make_store("one", "two", "three")
    failure = CaseFailure(case_id="two", stage="read", reason="damaged", peak_memory_mb=1.0)
    store.set_aside(failure)
    store.remove("three")
    found = audit(store)
    assert found.missing == ("three", "two")
    assert case_of(found, "two") == ("failed", "damaged")
    assert list(repair(store, found)) == []
    assert store.contents().failures == {"two": failure}


def test_a_case_of_other_parameters_is_missing_and_no_damage(
    make_store: MakeStore, cases: Cases
) -> None:
    store = make_store("one", "two")
    StoreWriter.create(store.path, store.manifest.model_copy(update={"margin": 7}), ("one", "two"))
    found = audit(store)
    assert [case.case_id for case in found.of("stale")] == ["one", "two"]
    assert found.missing == ("one", "two")
    assert list(repair(store, found)) == []
    store = StoreWriter.create(store.path, store.manifest, ("one", "two"))
    assert audit(store).sound


@pytest.fixture
def write_only() -> Iterator[Callable[[Path], None]]:
    """Lies over a file: it cannot be read, as where a server is away."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    over: list[Path] = []

    def cover(file: Path) -> None:
        subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/clear_refs", file], check=True)
        over.append(file)

    yield cover
    for file in over:
        subprocess.run(["umount", file], check=True)


@pytest.mark.parametrize("name", ["zarr.json", "image/zarr.json", "image/c/0/0/0/0"])
def test_what_the_disk_does_not_give_is_not_taken_for_damage(
    name: str, make_store: MakeStore, write_only: Callable[[Path], None]
) -> None:
    store = make_store("one", "two")
    write_only(Path(store.path, "cases/one", name))
    found = audit(store)
    state, what = case_of(found, "one")
    assert state == "unreadable"
    assert "cannot be read" in what
    assert not found.sound
    assert list(repair(store, found)) == []


@pytest.mark.parametrize("name", ["crops/image", "crops/label", "crops", "cases"])
def test_a_damaged_frame_ends_it_before_anything_is_dropped(
    name: str, make_store: MakeStore
) -> None:
    store = make_store("one")
    metadata = Path(store.path, name, "zarr.json")
    kept = metadata.read_bytes()
    for content in (b"", kept.replace(b"16", b"12") if "/" in name else b"[]"):
        metadata.write_bytes(content)
        with pytest.raises(
            StoreError, match=rf"{name}/zarr.json is damaged \(.*copy of the store, or preprocess"
        ):
            audit(Store.open(store.path))
    metadata.write_bytes(kept)
    assert audit(Store.open(store.path)).sound


def test_a_damaged_root_is_said(make_store: MakeStore) -> None:
    store = make_store("one")
    Path(store.path, "zarr.json").write_bytes(b"")
    with pytest.raises(StoreError, match=r"its zarr.json is damaged .* from a copy of the store"):
        Store.open(store.path)


def test_any_changed_byte_of_a_case_is_named_and_hides_no_other(make_store: MakeStore) -> None:
    store, random = make_store("one", "two"), np.random.default_rng(0)
    for name in ("zarr.json", "image/zarr.json"):
        file = Path(store.path, "cases/one", name)
        kept = file.read_bytes()
        places = [place for place, byte in enumerate(kept) if chr(byte) in "0123456789[]:,"]
        for place in random.choice(places, 8, replace=False):
            changed = bytearray(kept)
            changed[place] ^= 0x10 if chr(kept[place]).isdigit() else 0x01
            file.write_bytes(changed)
            contents = Store.open(store.path).contents()
            assert list(contents.records) == ["two"]
            assert "zarr.json" in contents.failures["one"].reason
            assert case_of(audit(store), "one")[0] == "damaged"
        file.write_bytes(kept)
    assert audit(store).sound


def test_a_changed_manifest_of_the_store_is_said(make_store: MakeStore) -> None:
    store = make_store("one")
    root = Path(store.path, "zarr.json")
    root.write_bytes(root.read_bytes().replace(b'"two"', b'"twp"'))  # in the list of a split
    with pytest.raises(StoreError, match=r"zarr.json is damaged \(it is not what was written\)"):
        Store.open(store.path)


def test_files_without_a_checksum_are_used_and_get_one(make_store: MakeStore) -> None:
    store = make_store("one", "two")
    for name in ("zarr.json", "cases/one/zarr.json"):
        file = Path(store.path, name)
        node = json.loads(file.read_bytes())
        del node["attributes"]["checksum"]
        file.write_text(json.dumps(node))
    found = audit(store)
    assert found.sound
    assert set(found.unchecked) == {"zarr.json", "cases/one/zarr.json"}
    assert list(repair(store, found)) == []
    after = audit(store)
    assert after.sound
    assert not after.unchecked


def test_readers_name_a_case_whose_record_file_is_damaged(make_store: MakeStore) -> None:
    store = make_store("one", "two")
    metadata = Path(store.path, "cases/one/zarr.json")
    for content in ("", "{", "[]", json.dumps({"zarr_format": 3})):
        metadata.write_text(content)
        with pytest.raises(StoreError, match=r"case one: its zarr.json is damaged"):
            store.read_crop("one")
    assert store.record("two").case_id == "two"

"""Writing a store and reading it back."""

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from common.case import PreparedCase, prepare
from common.discovery import discover
from common.errors import ConfigError, StoreError, UnsafeError
from common.geometry import IDENTITY, Geometry
from common.manifest import Manifest
from common.record import CaseFailure
from common.splits import FractionSplits, ListSplits
from common.store import Store, StoreWriter, is_current
from common.store.files import StoreFiles
from common.task import GLIOMA

Cases = dict[str, PreparedCase]
MakeStore = Callable[..., StoreWriter]


def assert_holds(store: Store, case: PreparedCase) -> None:
    """Everything of a case reads as it was prepared."""
    case_id = case.record.case_id
    image, label = store.read_volume(case_id)
    assert image.dtype == case.image.dtype
    assert np.array_equal(image, case.image)
    assert np.array_equal(store.read_crop_image(case_id), case.crop_image)
    if case.label is None:
        assert label is None
    else:
        assert label is not None
        assert np.array_equal(label, case.label)
        crop_image, crop_label = store.read_crop(case_id)
        assert np.array_equal(crop_image, case.crop_image)
        assert np.array_equal(crop_label, case.crop_label)
    store.verify(case_id)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_is_written_is_read(scheme: str, make_store: MakeStore, cases: Cases) -> None:
    """A URL is read by zarr-python, a path by zarrs."""
    written = make_store()
    store = Store.open(f"{scheme}{written.path}")
    assert list(store.contents().records) == sorted(cases)
    for case in cases.values():
        assert_holds(store, case)


READ_WHILE_BUSY = """
import sys, time
from zarr.core import sync
from common.store import Store
store = Store.open(sys.argv[1])
store.read_crop(next(iter(store.contents().records)))
sync.loop[0].call_soon_threadsafe(time.sleep, 1)
"""


def test_a_program_that_has_read_ends_without_a_word_on_a_busy_machine(
    make_store: MakeStore,
) -> None:
    command = [sys.executable, "-c", READ_WHILE_BUSY, make_store().path]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
PERMUTED = (0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
PLAIN_MM = (1.0, 1.0, 1.0)


@pytest.mark.parametrize("stray", [False, True])
@pytest.mark.parametrize(
    "grid",
    [
        (IDENTITY, PLAIN_MM, 1.0),
        (RAS, PLAIN_MM, 1.0),
        (PERMUTED, PLAIN_MM, 1.0),
        (RAS, (3.0, 1.0, 1.25), 1.0),
        (PERMUTED, (0.6, 0.9, 0.7), 1.0),
        (IDENTITY, (0.5, 2.0, 1.0), 1.0),
        (IDENTITY, PLAIN_MM, 2.0),
        (PERMUTED, (2.0, 2.0, 2.0), 2.0),
        (RAS, (3.0, 1.0, 1.25), 0.8),
    ],
)
def test_the_reference_is_the_files_label(
    files: dict[str, NDArray[np.generic]],
    write: Callable[..., Path],
    tmp_path: Path,
    grid: tuple[tuple[float, ...], tuple[float, float, float], float],
    stray: bool,
) -> None:
    if stray:
        files["seg"][0, 0, :3] = 2  # a corner far from the brain
    direction, spacing_mm, stored_mm = grid
    geometry = Geometry(files["seg"].shape, spacing_mm, (5.0, -30.0, 12.0), direction)
    manifest = Manifest(crop=(16, 16, 16), spacing_mm=stored_mm)
    folder = write(files, "one", geometry=geometry)
    case = prepare(discover(folder, manifest).cases[0], manifest)
    writer = StoreWriter.create(tmp_path / "s.zarr", manifest)
    writer.write(case, writer.allocate(1)[0])
    for store in (Store.open(writer.path), Store.open(f"file://{writer.path}")):
        store.verify("one")
        reference = store.read_reference("one")
        assert reference.dtype == np.uint8
        assert np.array_equal(reference, GLIOMA.to_canonical(files["seg"], "brats2021"))
        assert reference.shape == store.record("one").geometry.shape
        stored = Path(writer.path, "cases/one/reference").exists()
        assert stored == ("reference" in store.record("one").checksums)
        assert stored == (stray or spacing_mm != (stored_mm,) * 3)


def test_a_case_without_a_label_has_no_reference(make_store: MakeStore) -> None:
    with pytest.raises(StoreError, match="case unlabelled has no label"):
        make_store("unlabelled").read_reference("unlabelled")


def test_every_axis_has_a_name(make_store: MakeStore) -> None:
    root = zarr.open_group(make_store("one").path, mode="r")
    for name, names in {
        "crops/image": ("case", "modality", "z", "y", "x"),
        "crops/label": ("case", "z", "y", "x"),
        "cases/one/image": ("modality", "z", "y", "x"),
        "cases/one/label": ("z", "y", "x"),
    }.items():
        assert root[name].metadata.dimension_names == names


def test_xarray_opens_the_crops(make_store: MakeStore, cases: Cases) -> None:
    xarray = pytest.importorskip("xarray")
    store = make_store("one", "two")
    with xarray.open_zarr(store.path, group="crops", consolidated=False) as crops:
        assert crops.image.sizes == {"case": 2, "modality": 4, "z": 24, "y": 16, "x": 16}
        assert np.array_equal(crops.image.isel(case=1), cases["two"].crop_image)


def test_what_a_store_takes_here_and_elsewhere(make_store: MakeStore, tmp_path: Path) -> None:
    here = make_store("one", "unlabelled").files
    memory = fsspec.filesystem("memory")
    memory.put(f"{tmp_path}/s.zarr", "/store-to-measure", recursive=True)
    elsewhere = StoreFiles("memory://store-to-measure")
    for folder in ("crops", "cases"):
        files = [path for path in (tmp_path / "s.zarr" / folder).rglob("*") if path.is_file()]
        size_bytes = sum(path.stat().st_size for path in files)
        assert size_bytes > 1000
        assert here.size_bytes(folder) == size_bytes
        assert elsewhere.size_bytes(folder) == size_bytes


def test_what_is_gone_when_it_is_measured_takes_nothing(
    make_store: MakeStore, tmp_path: Path
) -> None:
    files = make_store("one").files
    size_bytes = files.size_bytes("cases")
    (tmp_path / "s.zarr" / "cases" / "gone").symlink_to(tmp_path / "nothing")
    assert files.size_bytes("cases") == size_bytes
    assert files.size_bytes("nothing") == files.size_bytes("zarr.json") == 0


def test_a_record_says_what_was_prepared(make_store: MakeStore, cases: Cases) -> None:
    store = make_store()
    for row, (case_id, case) in enumerate(cases.items()):
        record = store.record(case_id)
        assert record.row == row
        names = {"crops/image", "image"} | ({"crops/label", "label"} if record.has_label else set())
        assert set(record.checksums) == names
        unchanged = record.model_copy(update={"row": None, "checksums": {}})
        assert unchanged == case.record
        assert record.parameter_hash == store.parameter_hash


def test_a_copy_elsewhere_reads_equal(make_store: MakeStore, cases: Cases, tmp_path: Path) -> None:
    written = make_store()
    elsewhere = tmp_path / "another" / "place.zarr"
    shutil.copytree(written.path, elsewhere)
    shutil.rmtree(written.path)
    store = Store.open(elsewhere)
    for case in cases.values():
        assert_holds(store, case)


def test_it_opens_itself_again_in_another_process(make_store: MakeStore, cases: Cases) -> None:
    store = Store.open(make_store("one").path)
    store.read_crop("one")  # a store that has read must still be picklable
    assert pickle.loads(pickle.dumps(store)).path == store.path  # noqa: S301 - our own
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        image, _ = pool.submit(store.read_crop, "one").result(timeout=60)
    assert np.array_equal(image, cases["one"].crop_image)


def test_the_layout_is_the_contracts(make_store: MakeStore) -> None:
    store = make_store("one", "unlabelled")
    root = zarr.open_group(store.path, mode="r")
    image, label = root["crops/image"], root["crops/label"]
    assert image.shape == (2, 4, 24, 16, 16)
    assert image.shards == (1, 4, 24, 16, 16)
    assert image.chunks == (1, 1, 8, 16, 16)
    assert image.dtype == np.float16
    assert np.isnan(image.metadata.fill_value)
    assert label.shape == (2, 24, 16, 16)
    assert label.dtype == np.uint8
    assert label.metadata.fill_value == 255
    volume = root["cases/one/image"]
    depth = store.record("one").box.shape[0]
    assert volume.shape == (4, *store.record("one").box.shape)
    assert volume.chunks[:2] == (1, 16)
    assert volume.shards[:2] == (4, -(-depth // 16) * 16)
    files = [p for p in Path(store.path, "crops/image/c/0").rglob("*") if p.is_file()]
    assert len(files) == 1  # one shard a case
    assert not Path(store.path, "crops/label/c/1").exists()  # no label, no shard
    for array in (image, label, volume, root["cases/one/label"]):
        names = [type(codec).__name__ for codec in array.metadata.codecs[0].codecs]
        assert names == ["BytesCodec", "BloscCodec", "Crc32cCodec"]


def test_the_crop_of_the_paper_has_planes_of_16(tmp_path: Path) -> None:
    store = StoreWriter.create(tmp_path / "s.zarr", Manifest())
    root = zarr.open_group(store.path, mode="r")
    assert root["crops/image"].chunks == (1, 1, 16, 128, 128)
    assert root["crops/label"].chunks == (1, 16, 128, 128)


def test_an_unlabelled_case(make_store: MakeStore, cases: Cases) -> None:
    store = make_store("unlabelled", "one", "three", "four")
    assert not store.record("unlabelled").has_label
    assert_holds(store, cases["unlabelled"])
    with pytest.raises(StoreError, match="case unlabelled has no label"):
        store.read_crop("unlabelled")
    assert "unlabelled" not in [
        case for split in store.contents().splits.values() for case in split
    ]


def test_what_makes_a_case_stale(make_store: MakeStore, cases: Cases) -> None:
    store = make_store("one")
    record = store.record("one")
    hashes = {source.role: source.sha256 for source in record.sources}
    assert is_current(record, hashes, store.manifest)
    assert not is_current(record, hashes | {"t1": "other"}, store.manifest)
    assert not is_current(record, {r: h for r, h in hashes.items() if r != "label"}, store.manifest)
    other = StoreWriter.create(store.path, store.manifest.model_copy(update={"margin": 5}))
    assert not is_current(other.record("one"), hashes, other.manifest)
    changes = {"name": "x", "splits": FractionSplits(), "patient_pattern": "(?P<patient>o)ne"}
    same = StoreWriter.create(store.path, store.manifest.model_copy(update=changes))
    assert is_current(same.record("one"), hashes, same.manifest)
    assert same.contents().patients == {"one": "o"}  # by today's manifest, of all cases


def test_redoing_a_case_takes_a_new_row(make_store: MakeStore, cases: Cases) -> None:
    store = make_store("one", "two")
    (row,) = store.allocate(1)
    assert row == 2
    store.write(cases["one"], row)
    reopened = Store.open(store.path)
    assert reopened.record("one").row == 2
    assert_holds(reopened, cases["one"])
    assert_holds(reopened, cases["two"])
    assert not any(p.is_file() for p in Path(store.path, "crops/image/c/0").rglob("*"))


def test_a_failure_is_kept_until_the_case_is_stored(make_store: MakeStore, cases: Cases) -> None:
    store = make_store("one")
    failure = CaseFailure(case_id="two", stage="read", reason="no", peak_memory_mb=3.5)
    store.set_aside(failure)
    assert Store.open(store.path).contents().failures == {"two": failure}
    assert list(store.contents().records) == ["one"]
    store.write(cases["two"], store.allocate(1)[0])
    assert store.contents().failures == {}
    store.set_aside(failure)  # changed since, and failed
    assert list(store.contents().records) == ["one"]
    store.remove("two")
    assert store.contents().failures == {}


@pytest.mark.parametrize("case_id", ["", ".", "..", "../cases", "one/../two", "zarr.json"])
def test_an_id_that_is_no_folders_name_costs_no_case(
    case_id: str, make_store: MakeStore, cases: Cases
) -> None:
    """Each of these would take away more than one case."""
    store = make_store("one", "two")
    before = {name: store.files.read(name) for name in store.files.all()}
    record = cases["one"].record.model_copy(update={"case_id": case_id})
    failure = CaseFailure(case_id=case_id, stage="read", reason="no", peak_memory_mb=None)
    for harm in (
        lambda: store.remove(case_id),
        lambda: store.set_aside(failure),
        lambda: store.write(replace(cases["one"], record=record), 1),
    ):
        with pytest.raises(UnsafeError, match="name"):
            harm()
    assert {name: store.files.read(name) for name in store.files.all()} == before


@pytest.mark.parametrize("content", [b"", b'{"attributes": {"record": {}}}', b"[1]", b"\xff{"])
def test_a_damaged_record_hides_no_other_case(
    content: bytes, make_store: MakeStore, cases: Cases
) -> None:
    store = make_store("one", "two")
    Path(store.path, "cases/one/zarr.json").write_bytes(content)
    contents = store.contents()
    assert list(contents.records) == ["two"]
    assert list(contents.failures) == contents.absent == ["one"]
    assert "case one: its" in contents.failures["one"].reason
    assert "verify --repair" in contents.failures["one"].reason
    assert "1 of 2" in contents.absence
    with pytest.raises(StoreError, match="case one: its"):
        store.record("one")
    store.write(cases["one"], store.allocate(1)[0])
    assert not store.contents().absence


def test_a_lost_file_that_all_cases_share_is_named_with_what_to_do(make_store: MakeStore) -> None:
    store = make_store("one")
    for name in ("crops/image/zarr.json", "zarr.json"):
        Path(store.path, name).unlink()
        with pytest.raises(StoreError) as refused:
            Store.open(store.path).read_crop("one")
        assert f"fetch {name} from a copy" in str(refused.value)
        assert "repair" not in str(refused.value)


def test_contents_are_those_of_one_moment(make_store: MakeStore, cases: Cases) -> None:
    store = make_store("one")
    store.set_aside(CaseFailure(case_id="two", stage="read", reason="no", peak_memory_mb=None))
    before = store.contents()
    assert (list(before.records), list(before.failures)) == (["one"], ["two"])
    store.write(cases["two"], store.allocate(1)[0])
    assert (list(before.records), list(before.failures)) == (["one"], ["two"])
    now = store.contents()
    assert (list(now.records), list(now.failures)) == (["one", "two"], [])
    assert now.split("train") == ["one", "two"] == now.splits["train"]
    assert now.leaks(now.splits) == []


def test_cases_of_other_parameters_than_the_stores_are_not_there_until_made_again(
    make_store: MakeStore, cases: Cases
) -> None:
    store = make_store("one", "three")
    before, fingerprint = store.contents().records, store.contents().fingerprint
    StoreWriter.create(store.path, store.manifest.model_copy(update={"margin": 7}), ("one",))
    changed = Store.open(store.path)
    contents = changed.contents()
    assert contents.records == {}
    assert contents.stale == ["one", "three"]
    assert contents.committed == before
    assert changed.contents().fingerprint != fingerprint
    with pytest.raises(ConfigError, match="split 'train' is empty"):
        changed.contents().split("train")
    StoreWriter.create(store.path, store.manifest)  # thought better of
    assert Store.open(store.path).contents().records == before


def test_splits_are_of_the_labelled_cases_stored(make_store: MakeStore) -> None:
    store = make_store("one", "three", "unlabelled")
    assert store.contents().splits == {"train": ["one"], "val": ["three"], "test": []}
    assert store.contents().split("train") == ["one"]
    with pytest.raises(ConfigError, match="split 'test' is empty"):
        store.contents().split("test")


def test_an_image_in_two_splits_is_refused(make_store: MakeStore, cases: Cases) -> None:
    store = make_store("one", "three")
    record = cases["three"].record
    other = cases["one"].record
    twin = record.model_copy(update={"mean": other.mean, "std": other.std})
    image = cases["three"]
    store.write(
        PreparedCase(twin, image.image, image.label, image.crop_image, image.crop_label),
        store.allocate(1)[0],
    )
    assert store.contents().splits["val"] == ["three"]  # still told, for the report
    with pytest.raises(ConfigError, match=r"one \(train\) and three \(val\) have the same image"):
        store.contents().split("train")


def test_the_fingerprint_follows_what_training_sees(make_store: MakeStore, cases: Cases) -> None:
    store = make_store("one", "three")
    before = store.contents().fingerprint
    assert Store.open(store.path).contents().fingerprint == before
    named = StoreWriter.create(store.path, store.manifest.model_copy(update={"name": "x"}))
    assert named.contents().fingerprint == before
    lists = ListSplits(kind="lists", train=("three",), val=("one",))
    other = StoreWriter.create(store.path, store.manifest.model_copy(update={"splits": lists}))
    assert other.contents().fingerprint == before  # splits belong to training
    named.write(cases["two"], named.allocate(1)[0])
    assert named.contents().fingerprint != before


@pytest.mark.parametrize("change", [{"crop": (16, 16, 16)}, {"dtype": "float32"}])
def test_another_crop_or_type_is_refused(change: dict[str, object], make_store: MakeStore) -> None:
    store = make_store("one")
    with pytest.raises(StoreError, match="preprocess into a new store"):
        StoreWriter.create(store.path, store.manifest.model_copy(update=change))
    store.verify("one")


def test_what_cluster_is_asked_for_is_no_part_of_it(tmp_path: Path) -> None:
    manifest = Manifest.model_validate({"cluster": {"queue": "secret"}})
    store = StoreWriter.create(tmp_path / "s.zarr", manifest)
    assert "secret" not in Path(store.path, "zarr.json").read_text()
    assert Store.open(store.path).manifest == Manifest()


def test_where_the_manifest_would_have_it_is_no_part_of_it(tmp_path: Path) -> None:
    """A store is moved by copying it; and an address may have a secret in it."""
    manifest = Manifest(store="s3://AKIA:s3cretword@bucket/x.zarr")
    store = StoreWriter.create(tmp_path / "s.zarr", manifest)
    assert "s3cretword" not in Path(store.path, "zarr.json").read_text()
    assert Store.open(store.path).manifest == Manifest()


def test_another_schema_is_refused(make_store: MakeStore) -> None:
    store = make_store("one")
    for version, action in ((1, "run preprocess again"), (99, "newer fm-net")):
        zarr.open_group(store.path, mode="r+").attrs.update({"schema_version": version})
        with pytest.raises(StoreError, match=rf"version {version}; .* version 2: .*{action}"):
            Store.open(store.path)


def test_no_such_case(make_store: MakeStore) -> None:
    store = make_store("one")
    for read in (store.record, store.read_crop, store.read_volume, store.verify):
        with pytest.raises(StoreError, match="case nobody is not in this store"):
            read("nobody")

"""Reading a store."""

import atexit
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import ValidationError
from zarr.core import sync

from common import hints
from common.duplicates import Double, doubles
from common.errors import ConfigError, StoreError, UnsafeError
from common.manifest import Manifest
from common.names import show
from common.record import CaseFailure, CaseRecord, hash_of, parameters
from common.settings import explain
from common.splits import assign, require
from common.store.faults import case_faults, geometry_faults, record_faults
from common.store.files import Content, StoreFiles
from common.store.format import (
    CROP_ARRAYS,
    NODE_FILE,
    UNWRITTEN_LABEL,
    ZARRS_PIPELINE,
    attributes_of,
    checksum,
    crop_shape,
    describes,
    dtype_of,
    is_remote,
    rows_in,
    shard_files,
    volume_shapes,
)
from common.store.paths import damaged, restored, translate_io_errors
from common.store.root import Root, open_store
from common.task import Task


@dataclass(frozen=True)
class Contents:
    """A store's cases at one moment, read once and handed on."""

    path: str
    manifest: Manifest
    parameter_hash: str
    expected: tuple[str, ...]
    cases: Mapping[str, CaseRecord | CaseFailure]
    """By id; those whose folder cannot be used are failures of the stage `record`."""

    @cached_property
    def records(self) -> dict[str, CaseRecord]:
        """The committed cases of the store's own parameters by id, sorted: what readers use."""
        return {
            case_id: record
            for case_id, record in self.committed.items()
            if record.parameter_hash == self.parameter_hash
        }

    @cached_property
    def committed(self) -> dict[str, CaseRecord]:
        """The committed cases of any parameters by id, sorted."""
        return {c: case for c, case in sorted(self.cases.items()) if isinstance(case, CaseRecord)}

    @cached_property
    def failures(self) -> dict[str, CaseFailure]:
        """The cases that were tried and are not stored, or cannot be used, by id, sorted."""
        return {c: case for c, case in sorted(self.cases.items()) if isinstance(case, CaseFailure)}

    @cached_property
    def absent(self) -> list[str]:
        """Ids of the expected cases that are not stored."""
        return sorted(set(self.expected) - self.records.keys())

    @property
    def absence(self) -> str:
        """What to say of the expected cases that are not stored; empty if there are none."""
        if not self.absent:
            return ""
        return (
            f"{len(self.absent)} of {len(self.expected)} expected case(s) are not in the store, "
            f"such as {self.absent[0]}; `{hints.status(self.path)}` shows why"
        )

    @cached_property
    def stale(self) -> list[str]:
        """Ids of committed cases of another manifest: their labels may have another meaning."""
        return sorted(self.committed.keys() - self.records.keys())

    @cached_property
    def fingerprint(self) -> str:
        """Changes when anything that training reads changes: cases, parameters or regions."""
        task = self.manifest.task
        cases = {case_id: record.checksums for case_id, record in self.records.items()}
        regions = [list(task.regions.items()), task.painting]
        return hash_of([parameters(self.manifest), regions, cases])

    @cached_property
    def patients(self) -> dict[str, str]:
        """Labelled case to patient, by the store's manifest: what can be divided into splits."""
        patient_of = self.manifest.patient_of
        return {c: patient_of(c) for c, record in self.records.items() if record.has_label}

    @cached_property
    def splits(self) -> dict[str, list[str]]:
        """Labelled cases by split as the store's manifest divides them, sorted."""
        return assign(self.manifest.splits, self.patients)

    def doubles(self, splits: Mapping[str, Iterable[str]]) -> list[Double]:
        """The cases that have an image of another case, as divided into splits."""
        return doubles({case_id: record.images for case_id, record in self.records.items()}, splits)

    def leaks(self, splits: Mapping[str, Iterable[str]]) -> list[str]:
        """One line for each case with an image of another split, which makes scores meaningless."""
        return [
            f"{double}: list both in one split, or move one of the cases away and preprocess with "
            "--drop-absent"
            for double in self.doubles(splits)
            if double.splits
        ]

    def split(self, name: str, splits: Mapping[str, list[str]] | None = None) -> list[str]:
        """Ids of the labelled cases of one split, sorted; divided by the manifest if not given.

        Raises:
            ConfigError: the split is empty, or an image is in two splits.
        """
        splits = splits or self.splits
        if leaks := self.leaks(splits):
            raise ConfigError(f"{self.path}: " + "\n".join(leaks))
        try:
            return require(name, splits, self.patients)
        except ConfigError as error:
            if not self.absent:
                raise
            raise ConfigError(
                f"{self.path}: {len(self.absent)} of {len(self.expected)} expected case(s) are not "
                f"stored: preprocess again first. As it is, {error}"
            ) from error


class Store:
    """A store at a path or an fsspec URL, for reading; pickling keeps only the path."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        attributes = open_store(self.path)
        try:
            root = Root.model_validate(attributes)
            self.manifest = Manifest.model_validate(root.manifest)
            """As preprocessing resolved it."""
        except ValidationError as error:
            raise StoreError(f"{path}: its manifest is not readable: {explain(error)}") from error
        self.expected = root.expected
        """Ids of every case that the last preprocessing run found usable."""
        self.parameter_hash = root.parameter_hash
        """Of the last preprocessing run."""

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (self.path,)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open a store that exists.

        Raises:
            StoreError: there is none, or it is of another schema.
        """
        return cls(path)

    @property
    def crop(self) -> tuple[int, int, int]:
        """(D, H, W) of the training crops."""
        return self.manifest.crop

    @property
    def task(self) -> Task:
        """The cohort's."""
        return self.manifest.task

    def contents(self) -> Contents:
        """All cases at this moment: reads every case's folder, so call it once and hand it on.

        Raises:
            StoreError: a case's attributes cannot be read.
        """
        self.check_frame()
        with translate_io_errors(self.path, "read"):
            folders = self.files.case_folders()
        cases = dict[str, CaseRecord | CaseFailure]()
        for case_id, attributes in self.files.attributes(folders).items():
            try:
                if case := self._parsed(case_id, attributes):
                    cases[case_id] = case
            except StoreError as error:
                cases[case_id] = _unusable(case_id, error)
        records = [case for case in cases.values() if isinstance(case, CaseRecord)]
        for case_id, fault in self._array_faults(records):
            cases[case_id] = _unusable(case_id, fault)
        return Contents(self.path, self.manifest, self.parameter_hash, self.expected, cases)

    def check_frame(self) -> None:
        """Check the arrays and groups that all cases share.

        Raises:
            StoreError: one is missing, damaged, or does not fit the manifest.
        """
        names = ("crops", "cases", *CROP_ARRAYS)
        contents = self.files.contents([f"{name}/{NODE_FILE}" for name in names])
        for name, content in zip(names, contents, strict=True):
            if isinstance(content, StoreError):
                raise content
            try:
                if isinstance(content, FileNotFoundError):
                    raise ValueError("it is missing")
                if name in CROP_ARRAYS:
                    self._check_crops(name, content)
                else:
                    attributes_of(content)
            except ValueError as error:
                file = f"{name}/{NODE_FILE}"
                raise StoreError(
                    f"{self.path}: its {file} is damaged ({error}); {restored(file)}"
                ) from error

    def _check_crops(self, array: str, content: bytes) -> None:
        """ValueError if this is not the `NODE_FILE` of crops of the manifest."""
        name, rows = array.removeprefix("crops/"), rows_in(content)
        shape, dtype = crop_shape(name, self.manifest), dtype_of(name, self.manifest)
        if not describes(content, name, shape, dtype, rows):
            raise ValueError(f"the manifest has crops of {dtype} {shape}")

    def case(self, case_id: str) -> CaseRecord | CaseFailure | None:
        """The record of a committed case, or why it failed; None for one that was only begun.

        Raises:
            StoreError: what the store has of it cannot be used.
        """
        case = self._parsed(case_id, self.files.attributes([case_id]).get(case_id, {}))
        for fault in geometry_faults(case) if isinstance(case, CaseRecord) else ():
            raise damaged(self.path, case_id, fault)
        return case

    def record(self, case_id: str) -> CaseRecord:
        """The record of one committed case.

        Raises:
            StoreError: the store has no such case, or its record is damaged.
        """
        case = self.case(case_id)
        if not isinstance(case, CaseRecord):
            raise StoreError(f"{self.path}: case {show(case_id)} is not in this store")
        return case

    def row_if_known(self, case_id: str) -> int | None:
        """A case's row in the crops; None if its record is missing or damaged."""
        try:
            return self.record(case_id).row
        except StoreError:
            return None

    def _parsed(
        self, case_id: str, attributes: dict[str, Any] | StoreError
    ) -> CaseRecord | CaseFailure | None:
        """What the attributes of a case's folder say."""
        if isinstance(attributes, StoreError):
            raise attributes
        name = "record" if "record" in attributes else "failure"
        if name not in attributes:
            return None
        model: type[CaseRecord | CaseFailure] = CaseRecord if name == "record" else CaseFailure
        try:
            case = model.model_validate(attributes[name])
        except ValidationError as error:
            what = f"its {name} is not readable: {explain(error)}"
            raise damaged(self.path, case_id, what) from error
        if case.case_id != case_id:
            raise damaged(self.path, case_id, f"its {name} is that of {show(case.case_id)}")
        for fault in record_faults(case, self.manifest) if isinstance(case, CaseRecord) else ():
            raise damaged(self.path, case_id, fault)
        return case

    def _array_faults(self, records: list[CaseRecord]) -> Iterator[tuple[str, StoreError]]:
        """Cases whose arrays are described otherwise than their records say, or are links."""
        arrays = [
            (record.case_id, name, shape)
            for record in records
            for name, shape in volume_shapes(record, self.manifest).items()
        ]
        files = [f"cases/{case_id}/{name}/{NODE_FILE}" for case_id, name, _ in arrays]
        for array, content in zip(arrays, self.files.contents(files), strict=True):
            try:
                self._check_volume(*array, content)
            except StoreError as error:
                yield array[0], error
        for record in records:
            try:
                self.files.check_regular(shard_files(record))
            except UnsafeError as error:
                yield record.case_id, error

    def _check_volume(
        self, case_id: str, name: str, shape: tuple[int, ...], content: Content
    ) -> None:
        """Check the `NODE_FILE` of a volume, before zarr acts on it."""
        if isinstance(content, StoreError):
            raise content
        file, dtype = f"cases/{case_id}/{name}/{NODE_FILE}", dtype_of(name, self.manifest)
        if isinstance(content, FileNotFoundError):
            raise damaged(self.path, case_id, f"{file} is missing") from content
        if not describes(content, name, shape, dtype):
            what = f"{file} is damaged: it does not describe {dtype} {shape}, as the record does"
            raise damaged(self.path, case_id, what)

    @cached_property
    def files(self) -> StoreFiles:
        """The store's files."""
        return StoreFiles(self.path)

    def read_crop(self, case_id: str) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
        """A case's training crop: image (modalities, *crop) and label (*crop).

        Raises:
            StoreError: the case is unknown, unlabelled, damaged, or was never written.
        """
        image = self.read_crop_image(case_id)
        label = self._read(self._crops[1], case_id, self._row(case_id))
        self._check_written(case_id, image, label)
        return image, label

    def read_crop_plane(
        self, case_id: str, plane: int
    ) -> tuple[NDArray[np.floating], NDArray[np.uint8]]:
        """One axial plane of a case's crop: image (modalities, H, W) and label (H, W).

        Its chunks are read whole: zarrs checks no checksum of a chunk that it decodes in part.

        Raises:
            StoreError: as `read_crop`, of the planes that share its chunks.
        """
        row, depth = self._row(case_id), self._crops[0].chunks[2]
        within = plane % depth
        planes = slice(plane - within, plane - within + depth)
        image = self._read(self._crops[0], case_id, (row, slice(None), planes))
        label = self._read(self._crops[1], case_id, (row, planes))
        self._check_written(case_id, image, label)
        return image[:, within], label[within]

    def read_crop_image(self, case_id: str) -> NDArray[np.floating]:
        """The image (modalities, *crop) of a case's crop, labelled or not.

        Raises:
            StoreError: the case is unknown, damaged, or was never written.
        """
        image = self._read(self._crops[0], case_id, self._row(case_id))
        self._check_written(case_id, image, None)
        return image

    def read_volume(self, case_id: str) -> tuple[NDArray[np.floating], NDArray[np.uint8] | None]:
        """A case's whole brain box: image (modalities, D, H, W), and label (D, H, W) if any.

        Raises:
            StoreError: the case or its volume is not there, or damaged.
        """
        record = self.record(case_id)
        image = self._read_volume(record, "image")
        label = self._read_volume(record, "label") if record.has_label else None
        self._check_written(case_id, image, label)
        # A volume's last chunk reaches beyond it, so zarrs decodes it in part, unchecked.
        self._compare(record, "image", image)
        if label is not None:
            self._compare(record, "label", label)
        return image, label

    def read_reference(self, case_id: str) -> NDArray[np.uint8]:
        """A case's canonical label (D, H, W) in its files' own grid, `record.geometry`.

        Raises:
            StoreError: the case is unknown, unlabelled or damaged.
        """
        record = self.record(case_id)
        if not record.has_label:
            raise StoreError(f"{self.path}: case {case_id} has no label")
        name = "reference" if record.stores_reference else "label"
        label = self._read_volume(record, name)
        self._compare(record, name, label)
        return label if record.stores_reference else record.to_file_grid(label)

    def verify(self, case_id: str) -> None:
        """Read everything of one case and compare it with its record and the manifest.

        Raises:
            StoreError: an array is missing, damaged, or other than the record says.
        """
        self.verify_record(self.record(case_id))

    def verify_record(self, record: CaseRecord) -> None:
        """As `verify`, with a record that may not be committed yet."""
        case_id, row = record.case_id, record.row
        image, label = self._crops
        if row is None or row >= min(image.shape[0], label.shape[0]):
            raise damaged(self.path, case_id, f"its row, {row}, is not in the crops")
        arrays = {
            "crops/image": self._read(image, case_id, row),
            "crops/label": self._read(label, case_id, row),
        }
        for name in volume_shapes(record, self.manifest):
            arrays[name] = self._read_volume(record, name)
        for fault in case_faults(record, arrays, self.manifest):
            raise damaged(self.path, case_id, fault)

    def _compare(self, record: CaseRecord, name: str, array: NDArray[Any]) -> None:
        if checksum(array) != record.checksums.get(name):
            raise damaged(self.path, record.case_id, f"{name} is not what was written")

    @cached_property
    def _crops(self) -> tuple[Any, Any]:
        self.check_frame()
        image, label = (self._opened(array) for array in CROP_ARRAYS)
        return image, label

    def _opened(self, array: str) -> Any:  # noqa: ANN401 - zarr's indexing yields a union that says nothing
        """An array whose description was checked."""
        pipeline = {} if is_remote(self.path) else {"codec_pipeline.path": ZARRS_PIPELINE}
        with translate_io_errors(self.path, "read"), zarr.config.set(pipeline):  # zarrs is faster
            return zarr.open_array(self.path, path=array, mode="r")

    @cached_property
    def _volumes(self) -> dict[tuple[str, tuple[int, ...]], Any]:
        """The volumes read so far, each 6 kB of description; training reads them in each epoch."""
        return {}

    @cached_property
    def _rows(self) -> dict[str, int | None]:
        """Rows of the cases read so far, so that each record is read once."""
        return {}

    def _row(self, case_id: str) -> int | None:
        if case_id not in self._rows:
            self._rows[case_id] = self.record(case_id).row
        return self._rows[case_id]

    def _read_volume(self, record: CaseRecord, name: str) -> NDArray[Any]:
        """One of a case's whole volumes; opening it takes as long as reading one of 2 mm."""
        array, shape = f"cases/{record.case_id}/{name}", volume_shapes(record, self.manifest)[name]
        if (array, shape) not in self._volumes:
            (content,) = self.files.contents([f"{array}/{NODE_FILE}"])
            self._check_volume(record.case_id, name, shape, content)
            self._volumes[array, shape] = self._opened(array)
        return self._read(self._volumes[array, shape], record.case_id)

    def _read(self, array: Any, case_id: str, where: Any = ...) -> NDArray[Any]:  # noqa: ANN401
        try:
            return np.asarray(array[where])
        except MemoryError:
            raise
        except Exception as error:  # whatever the two codec pipelines raise on damaged chunks
            raise damaged(self.path, case_id, f"{array.path} is damaged ({error})") from error

    def _check_written(
        self, case_id: str, image: NDArray[np.floating], label: NDArray[np.uint8] | None
    ) -> None:
        """Check one voxel of each plane: chunks that were never written read as the fill value."""
        if np.isnan(image[:, :, 0, 0]).any():
            raise damaged(self.path, case_id, "a part of its image is gone, or was never written")
        if label is None or not (label[:, 0, 0] == UNWRITTEN_LABEL).any():
            return
        if self.record(case_id).has_label:
            raise damaged(self.path, case_id, "a part of its label is gone, or was never written")
        raise StoreError(
            f"{self.path}: case {case_id} has no label; cases without one cannot be trained on"
        )


def _unusable(case_id: str, error: StoreError) -> CaseFailure:
    """For a case whose folder cannot be used."""
    return CaseFailure(case_id=case_id, stage="record", reason=str(error), peak_memory_mb=None)


@atexit.register
def _end_zarrs_thread() -> None:
    """Stop zarr's event loop, or leave it to the process's end where a busy machine delays that.

    zarr's own clean-up, which runs after this, closes the loop even while it runs, and a command
    then ends with its traceback.
    """
    (loop,), (thread,) = sync.loop, sync.iothread
    if loop is not None and thread is not None:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=0.2)  # as long as zarr waits
        if thread.is_alive():
            sync.loop[0] = None

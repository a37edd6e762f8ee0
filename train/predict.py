"""Masks for cases: from raw files or a store to NIfTI in each case's own grid."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common import hints, nifti
from common.case import prepare, restore
from common.discovery import CaseFiles, discover
from common.errors import Finding, FMNetError, InputError, RunError, StoreError
from common.grouping import VOLUME_SUFFIXES
from common.manifest import DEFAULT_NAME, Manifest, load_manifest
from common.outputs import check_output
from common.record import CaseRecord
from common.store import Store, is_remote
from common.task import Task
from common.unused_files import IMAGE_SUFFIXES
from train.loaded_run import LoadedRun, check_task, store_warnings

NAMING = (
    *("layout", "modalities", "label", "companions", "stacked", "patient_pattern"),
    *("label_convention", "label_map", "background"),
)
"""What a manifest beside the files decides; all else that `prepare` reads is the run's."""

OTHER_FORMATS = {*IMAGE_SUFFIXES, ".npy"}
"""Endings that no folder of masks has."""

PREDICTED = "predicted by FM-Net"
"""The description in a mask's header: only files that have it are replaced."""


@dataclass
class Predictions:
    """What `predict` has done."""

    task: Task  # of the data
    of_store: bool = False  # and not of files, whose labels are not read
    written: dict[str, Path] = field(default_factory=dict)  # case id to its mask's file
    records: dict[str, CaseRecord] = field(default_factory=dict)  # of the cases in `written`
    replaced: list[str] = field(default_factory=list)  # ids of cases that had a mask before
    failures: dict[str, str] = field(default_factory=dict)  # case id to why it has no mask
    findings: list[Finding] = field(default_factory=list)  # about files, as `check` reports them
    warnings: list[str] = field(default_factory=list)
    layout: str = ""  # in which the cases of a folder were found, in words

    @property
    def clean(self) -> bool:
        """Whether every case has its mask."""
        return not self.failures and all(f.severity != "error" for f in self.findings)

    @property
    def case_warnings(self) -> list[str]:
        """A line for everything unusual in the files of a case that has a mask."""
        return [
            f"{case_id}: {warning.file}: {warning.found} → {warning.action}"
            for case_id, record in self.records.items()
            for warning in record.warnings
        ]

    @property
    def legend(self) -> list[str]:
        """A line for each convention that masks are written in: what its values mean."""
        groups: dict[tuple[str, str], list[str]] = {}
        for case_id, record in self.records.items():
            groups.setdefault((record.convention, record.convention_from), []).append(case_id)
        return [
            f"{_some(cases)}: {self.task.legend(convention)} ({convention}, by {decided_by}"
            + (")" if self.of_store else "; labels are not read)")
            for (convention, decided_by), cases in groups.items()
        ]


Case = tuple[NDArray[np.floating], CaseRecord]
"""Image (modalities, *box), and the record that leads back to the files' grid."""


@dataclass(frozen=True)
class Source:
    """Cases to predict, and what reads each."""

    folder: str | Path  # the store's, or that of the files
    task: Task  # whose modalities the images have, in this order
    cases: Mapping[str, Callable[[], Case]]
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layout: str = ""  # of a folder, in words


def predict(
    loaded: LoadedRun,
    data: str | Path,
    out: Path,
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
) -> Predictions:
    """Write a mask for every case, in its files' grid, orientation and values.

    `out` is the folder of the masks, `OUT/<case id>.nii.gz`, or the mask of a single case where its
    name is a NIfTI file's. A case that fails is reported, and the others are still predicted. The
    data are the folder of one case or of a cohort, or a store; labels of a folder are not read.
    `on_case` gets (cases done, cases in all), first with none done.

    Raises:
        ConfigError: the data are of another task than the run.
        InputError: the folder is not there, or holds no usable case.
        StoreError: the store is not there, or empty.
        RunError: the masks cannot be written at `out`, or would lie among the data, where they
            would be taken for cases.
    """
    check_output(out, "file" if _names_a_file(out) else "folder", data)
    is_store = is_remote(data) or Path(data, "zarr.json").is_file()
    source = _of_store(loaded, Store.open(data)) if is_store else _of_folder(loaded, Path(data))
    done = Predictions(
        source.task,
        is_store,
        findings=source.findings,
        warnings=source.warnings,
        layout=source.layout,
    )
    paths = _paths(out, source)
    on_case(0, len(paths))
    for count, (case_id, path) in enumerate(paths.items(), 1):
        try:
            _write_mask(loaded, source, case_id, path, done)
        except FMNetError as error:
            done.failures[case_id] = str(error)
        except Exception as error:  # noqa: BLE001 - a case that fails must not end the others
            done.failures[case_id] = f"{type(error).__name__}: {error}"
        on_case(count, len(paths))
    return done


def _paths(out: Path, source: Source) -> dict[str, Path]:
    """Case id to the file of its mask; makes the folder."""
    names_a_file = _names_a_file(out)
    if names_a_file and out.exists():
        raise RunError(
            f"{out}: there is a file already; name a folder, or a file that is not there"
        )
    if not names_a_file and out.suffix.lower() in OTHER_FORMATS and not out.is_dir():
        raise RunError(f"{out}: masks are .nii.gz or .nii; name such a file, or a folder")
    if names_a_file and len(source.cases) > 1:
        raise RunError(
            f"{out}: the name of one mask, and {source.folder} has {len(source.cases)} cases; name "
            "a folder"
        )
    folder = out.parent if names_a_file else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made ({error.strerror}); name another") from error
    paths = {
        case_id: out if names_a_file else out / f"{case_id}{VOLUME_SUFFIXES[0]}"
        for case_id in source.cases
    }
    for path in paths.values():
        check_output(path, "file")
        if path.exists():
            _check_predicted(path)
    return paths


def _names_a_file(out: Path) -> bool:
    return out.name.lower().endswith(VOLUME_SUFFIXES)


def _check_predicted(path: Path) -> None:
    """Refuse to replace what may be a reference label, or anything but an earlier mask."""
    try:
        is_mask = nifti.description_of(path) == PREDICTED
    except InputError:
        is_mask = False
    if not is_mask:
        raise RunError(
            f"{path}: is there, and is no mask that this program predicted; name another folder, "
            "or move it away"
        )


def _write_mask(
    loaded: LoadedRun, source: Source, case_id: str, path: Path, done: Predictions
) -> None:
    image, record = source.cases[case_id]()
    logits = loaded.logits(image, source.task.modalities)
    label = loaded.labels(logits, record.spacing_mm)
    was_there = path.exists()
    try:
        nifti.write(path, *restore(label, record, source.task), PREDICTED, sync=True)
    except OSError as error:
        kept = ", and the earlier mask is kept" if was_there else ""
        raise RunError(
            f"{path}: cannot be written ({error.strerror}){kept}; make room, and predict it again"
        ) from error
    done.written[case_id], done.records[case_id] = path, record
    if was_there:
        done.replaced.append(case_id)


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")


def naming_of(loaded: LoadedRun, data: Path) -> Manifest:
    """How to read raw cases for a run.

    File names and label convention are those of the manifest in the folder, or beside the folder
    of one case, else the run's; crop, margin and type are always the run's. Only the images that
    the network sees are needed; other images are not read.

    Raises:
        ConfigError: that manifest is not readable, or of another task.
    """
    found = loaded.manifest
    for folder in (data, data.resolve().parent):
        if (folder / DEFAULT_NAME).is_file():
            found = load_manifest(folder / DEFAULT_NAME)
            check_task(loaded, found.task, folder / DEFAULT_NAME)
            break
    kept = tuple(name for name in found.task.modalities if name in loaded.needed)
    changes = {name: getattr(found, name) for name in ("task", *NAMING)}
    return loaded.manifest.model_copy(update=changes).with_modalities(kept)


def _of_store(loaded: LoadedRun, store: Store) -> Source:
    check_task(loaded, store.task, store.path)
    contents = store.contents()
    records = contents.records
    if not records:
        adding = hints.preprocess(store.path)
        raise StoreError(f"{store.path}: no case in this store; add some with `{adding}`")
    return Source(
        store.path,
        store.task,
        {case_id: partial(_stored, store, record) for case_id, record in records.items()},
        warnings=[
            *store_warnings(loaded, store, contents, list(records)),
            *filter(None, [contents.absence]),
        ],
    )


def _stored(store: Store, record: CaseRecord) -> Case:
    return store.read_volume(record.case_id)[0], record


def _of_folder(loaded: LoadedRun, folder: Path) -> Source:
    manifest = naming_of(loaded, folder)
    discovery = discover(folder, manifest, labels=False)
    findings = discovery.findings
    if not discovery.cases:
        raise InputError(
            Finding(
                str(folder),
                "no usable case",
                "the folder of a case or of a cohort, or a store",
                "check the path and the findings below" if findings else "check the path",
            ),
            *findings,
        )
    cases = {files.case_id: partial(_raw, files, manifest) for files in discovery.cases}
    return Source(folder, manifest.task, cases, findings, layout=discovery.layout_line)


def _raw(files: CaseFiles, manifest: Manifest) -> Case:
    prepared = prepare(files, manifest)
    return prepared.image, prepared.record

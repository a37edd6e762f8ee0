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
from common.files import replacing
from common.manifest import DEFAULT_NAME, Manifest, load_manifest
from common.record import CaseRecord
from common.store import Store, is_remote
from common.task import Task
from train.loaded_run import LoadedRun, check_task, label_of, store_warnings

NAMING = ("modalities", "label", "companions", "stacked", "label_convention", "patient_pattern")
"""What a manifest beside the files decides; all else that `prepare` reads is the run's."""


@dataclass
class Predictions:
    """What `predict` has done."""

    written: dict[str, Path] = field(default_factory=dict)  # case id to its mask's file
    replaced: list[str] = field(default_factory=list)  # ids of cases that had a mask before
    failures: dict[str, str] = field(default_factory=dict)  # case id to why it has no mask
    findings: list[Finding] = field(default_factory=list)  # about files, as `check` reports them
    warnings: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every case has its mask."""
        return not self.failures and all(f.severity != "error" for f in self.findings)


Case = tuple[NDArray[np.floating], CaseRecord]
"""Image (modalities, *box), and the record that leads back to the files' grid."""

Cases = Mapping[str, Callable[[], Case]]
"""Case id to what reads it."""


def predict(
    loaded: LoadedRun,
    data: str | Path,
    out_dir: Path,
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
) -> Predictions:
    """Write `OUT/<case id>.nii.gz` for every case, in its files' grid, orientation and values.

    A case that fails is reported, and the others are still predicted. The data are the folder of
    one case or of a cohort, or a store; labels are not needed. `on_case` gets (cases done, cases in
    all), first with none done.

    Raises:
        ConfigError: the data are of another task than the run.
        InputError: the folder is not there, or holds no usable case.
        StoreError: the store is not there, or empty.
        RunError: the masks would lie among the data, where they would be taken for cases.
    """
    out = Predictions()
    if is_remote(data) or Path(data, "zarr.json").is_file():
        task, loads = _of_store(loaded, Store.open(data), out)
    else:
        folder = Path(data)
        if out_dir.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{out_dir}: is in the folder of the data; name one outside {folder}")
        task, loads = _of_folder(loaded, folder, out)
    out_dir.mkdir(parents=True, exist_ok=True)
    on_case(0, len(loads))
    for done, (case_id, load) in enumerate(loads.items(), 1):
        try:
            image, record = load()
            label = label_of(loaded.logits(image), loaded.task)
            path = out_dir / f"{case_id}.nii.gz"
            was_there = path.exists()
            via = path.with_name(f".{case_id}.partial.nii.gz")
            with replacing(path, via=via) as unfinished:
                nifti.write(unfinished, *restore(label, record, task))
            out.written[case_id] = path
            if was_there:
                out.replaced.append(case_id)
        except FMNetError as error:
            out.failures[case_id] = str(error)
        except Exception as error:  # noqa: BLE001 - a case that fails must not end the others
            out.failures[case_id] = f"{type(error).__name__}: {error}"
        on_case(done, len(loads))
    return out


def naming_of(loaded: LoadedRun, data: Path) -> Manifest:
    """How to read raw cases for a run.

    File names and label convention are those of the manifest in the folder, or beside the folder
    of one case, else the run's; crop, margin and type are always the run's.

    Raises:
        ConfigError: that manifest is not readable, or of another task.
    """
    for folder in (data, data.resolve().parent):
        if (folder / DEFAULT_NAME).is_file():
            found = load_manifest(folder / DEFAULT_NAME)
            check_task(loaded, found.task, folder / DEFAULT_NAME)
            return loaded.manifest.model_copy(
                update={name: getattr(found, name) for name in ("task", *NAMING)}
            )
    return loaded.manifest


def _of_store(loaded: LoadedRun, store: Store, out: Predictions) -> tuple[Task, Cases]:
    check_task(loaded, store.task, store.path)
    contents = store.contents()
    records = contents.records
    if not records:
        adding = hints.preprocess(store.path)
        raise StoreError(f"{store.path}: no case in this store; add some with `{adding}`")
    out.warnings += store_warnings(loaded, store, contents, list(records))
    return store.task, {c: partial(_stored, store, record) for c, record in records.items()}


def _stored(store: Store, record: CaseRecord) -> Case:
    return store.read_volume(record.case_id)[0], record


def _of_folder(loaded: LoadedRun, folder: Path, out: Predictions) -> tuple[Task, Cases]:
    manifest = naming_of(loaded, folder)
    discovery = discover(folder, manifest)
    out.findings += discovery.findings
    if not discovery.cases:
        raise InputError(
            Finding(
                str(folder),
                "no usable case",
                "the folder of a case or of a cohort, or a store",
                "check the path and the findings below" if out.findings else "check the path",
            ),
            *out.findings,
        )
    cases = {files.case_id: partial(_raw, files, manifest) for files in discovery.cases}
    return manifest.task, cases


def _raw(files: CaseFiles, manifest: Manifest) -> Case:
    prepared = prepare(files, manifest)
    return prepared.image, prepared.record

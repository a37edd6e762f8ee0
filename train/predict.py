"""Masks for cases: from raw files or a store to NIfTI in each case's own grid.

What a folder of masks was made from is beside them (`train.predictions`): calling `predict` again
predicts only what is missing or has changed.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from common import hints, nifti
from common.case import prepare
from common.discovery import CaseFiles, discover
from common.errors import Finding, FMNetError, InputError, RunError, StoreError
from common.files import real_path, sha256
from common.grouping import VOLUME_SUFFIXES, stem_of
from common.manifest import Manifest, load_manifest, manifest_in
from common.names import some
from common.outputs import check_output
from common.record import CaseRecord, hash_of, parameters
from common.store import Store, is_remote
from common.task import Task
from common.unused_files import IMAGE_SUFFIXES
from train.budget import Budget
from train.ensemble import Predictor, check_task
from train.loaded_run import store_warnings
from train.postprocess import file_logits
from train.predictions import (
    PREDICTIONS,
    PredictedCase,
    PredictionsFile,
    key_of,
    settings_of,
)

NAMING = (
    *("layout", "modalities", "label", "companions", "stacked", "patient_pattern"),
    *("label_convention", "label_map", "background"),
)
"""What a manifest beside the files decides; all else that `prepare` reads is the run's."""

OTHER_FORMATS = {*IMAGE_SUFFIXES, ".npy"}
"""Endings that no folder of masks has."""

NOTES_SECONDS = 5.0
"""Between writings of the notes, which are of all cases; a killed process loses those since."""

MASK = "mask"
"""In place of a region, among the files of a case."""

PREDICTED = "predicted by FM-Net"
"""The description in a mask's header: only files that have it are replaced."""


@dataclass
class Predictions:
    """What `predict` has done."""

    task: Task  # of the data
    of_store: bool = False  # and not of files, whose labels are not read
    written: dict[str, Path] = field(default_factory=dict)  # case id to its mask's file
    cases: dict[str, PredictedCase] = field(default_factory=dict)  # of those in `written`
    replaced: list[str] = field(default_factory=list)  # ids of cases that had a mask before
    kept: list[str] = field(default_factory=list)  # ids of cases that were predicted before
    failures: dict[str, str] = field(default_factory=dict)  # case id to why it has no mask
    findings: list[Finding] = field(default_factory=list)  # about files, as `check` reports them
    warnings: list[str] = field(default_factory=list)
    layout: str = ""  # in which the cases of a folder were found, in words
    unnoted: str = ""  # why `predictions.json` does not list all of them

    @property
    def clean(self) -> bool:
        """Whether every case has its mask."""
        return not self.failures and all(f.severity != "error" for f in self.findings)

    @property
    def picked(self) -> list[str]:
        """A line for each way of predicting that a budget picked."""
        groups: dict[str, list[str]] = {}
        for case_id, case in self.cases.items():
            if case.picked:
                groups.setdefault(case.picked, []).append(case_id)
        return [f"{some(cases, 3)}: predicted with {way}" for way, cases in groups.items()]

    def summary(self, out: Path) -> str:
        """How many masks were written, and how many were there."""
        counts = f"{len(self.written) - len(self.kept)} mask(s) in {out}"
        if self.replaced:
            counts += f", {len(self.replaced)} in place of earlier ones"
        if self.kept:
            counts += f"; {len(self.kept)} kept, made of the same images in the same way before"
        return counts

    @property
    def case_warnings(self) -> list[Finding]:
        """Everything unusual in the files of a case that has a mask."""
        return [
            warning.of(case_id) for case_id, case in self.cases.items() for warning in case.warnings
        ]

    @property
    def legend(self) -> list[str]:
        """A line for each convention that masks are written in: what its values mean."""
        groups: dict[tuple[str, str], list[str]] = {}
        for case_id, case in self.cases.items():
            groups.setdefault((case.convention, case.convention_from), []).append(case_id)
        return [
            f"{some(cases, 3)}: {self.task.legend(convention)} ({convention}, by {decided_by}"
            + (")" if self.of_store else "; labels are not read)")
            for (convention, decided_by), cases in groups.items()
        ]


@dataclass(frozen=True)
class Case:
    """A case to predict."""

    image: NDArray[np.floating]  # (modalities, *box)
    modalities: tuple[str, ...]  # of the image, in its order
    record: CaseRecord  # leads back to the files' grid


@dataclass(frozen=True)
class Unread:
    """A case that is not read yet."""

    read: Callable[[], Case]
    hash_input: Callable[[], str]  # of all that `read` gives, without reading voxels


@dataclass(frozen=True)
class Source:
    """Cases to predict."""

    folder: str | Path  # the store's, or that of the files
    task: Task
    cases: Mapping[str, Unread]
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    layout: str = ""  # of a folder, in words


def predict(  # noqa: PLR0913 - what rarely changes goes by name
    predictor: Predictor,
    data: str | Path,
    out: Path,
    on_case: Callable[[int, int], None] = lambda _done, _total: None,
    *,
    probabilities: bool = False,
    budget_seconds: float | None = None,
) -> Predictions:
    """Write a mask for every case, in its files' grid, orientation and values.

    `out` is the folder of the masks, `OUT/<case id>.nii.gz`, or the mask of a single case where its
    name is a NIfTI file's. In a folder, cases that were predicted from the same images with the
    same weights and settings are kept. A case that fails is reported, and the others are still
    predicted. The data are the folder of one case or of a cohort, or a store; labels of a folder
    are not read. `on_case` gets (cases done, cases in all), first with none done.

    With `probabilities`, a volume of each region is beside each mask. With a budget, the overlap,
    flips and precision of each case are those that `train.budget` picks for this time.

    Raises:
        ConfigError: the data are of another task than the run.
        InputError: the folder is not there, or holds no usable case.
        StoreError: the store is not there, or empty.
        RunError: the masks cannot be written at `out`, or would lie among the data, where they
            would be taken for cases.
    """
    check_output(out, "file" if _names_a_file(out) else "folder", data)
    is_store = is_remote(data) or Path(data, "zarr.json").is_file()
    source = (
        _of_store(predictor, Store.open(data)) if is_store else _of_folder(predictor, Path(data))
    )
    done = Predictions(
        source.task,
        is_store,
        findings=source.findings,
        warnings=source.warnings,
        layout=source.layout,
    )
    regions = predictor.task.region_names if probabilities else ()
    paths = _paths(out, source, regions)
    folder = None if _names_a_file(out) else out
    budget = None if budget_seconds is None else Budget(predictor, budget_seconds)
    work = _Work(predictor, source, done, folder, budget)
    on_case(0, len(paths))
    try:
        for count, (case_id, of_case) in enumerate(paths.items(), 1):
            try:
                work.predict(case_id, of_case)
            except FMNetError as error:
                done.failures[case_id] = str(error)
            except Exception as error:  # noqa: BLE001 - a case that fails must not end the others
                done.failures[case_id] = f"{type(error).__name__}: {error}"
            on_case(count, len(paths))
    finally:
        work.write_notes()
    return done


def _paths(out: Path, source: Source, regions: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Case id to the files of its mask and of these regions, by region; makes the folder."""
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
    paths = {}
    for case_id in source.cases:
        mask = out if names_a_file else out / f"{case_id}{VOLUME_SUFFIXES[0]}"
        stem = stem_of(mask.name)
        paths[case_id] = {MASK: mask} | {
            region: folder / f"{stem}_probability_{region}{VOLUME_SUFFIXES[0]}"
            for region in regions
        }
        for path in paths[case_id].values():
            check_output(path, "file")
            if path.exists():
                _check_predicted(path)
    return paths


def _names_a_file(out: Path) -> bool:
    return out.name.lower().endswith(VOLUME_SUFFIXES)


def _check_predicted(path: Path) -> None:
    """Refuse to replace what may be a reference label, or anything but an earlier mask."""
    try:
        is_mask = nifti.description_of(path).startswith(PREDICTED)
    except InputError:
        is_mask = False
    if not is_mask:
        raise RunError(
            f"{path}: is there, and is no mask that this program predicted; name another folder, "
            "or move it away"
        )


class _Work:
    """Predicts one case after the other and notes what was done."""

    def __init__(
        self,
        predictor: Predictor,
        source: Source,
        done: Predictions,
        folder: Path | None,
        budget: Budget | None,
    ) -> None:
        self._predictor, self._source, self._done, self._budget = predictor, source, done, budget
        self._folder = folder  # of the masks, None for a single mask's file
        self._notes = PredictionsFile.read(folder) if folder else PredictionsFile()
        settings = settings_of(predictor, budget.seconds if budget else None)
        self._settings = key_of(settings)
        self._notes.settings[self._settings] = settings
        self._written_at = -math.inf
        self._unwritten = False

    def predict(self, case_id: str, paths: Mapping[str, Path]) -> None:
        """Write the files of a case at these paths, unless they are there already."""
        unread, before = self._source.cases[case_id], self._notes.cases.get(case_id)
        input_hash = unread.hash_input()
        if before and before.is_of(input_hash, self._settings, paths.values()):
            self._done.kept.append(case_id)
            self._done.written[case_id], self._done.cases[case_id] = paths[MASK], before
            return
        was_there, case = paths[MASK].exists(), unread.read()
        predictor, picked = self._pick(case_id, case)
        logits = predictor.logits(case.image, case.modalities)
        self._write(logits, case.record, paths)
        noted = PredictedCase(
            input=input_hash,
            settings=self._settings,
            picked=picked,
            files={path.name: sha256(path) for path in paths.values()},
            convention=case.record.convention,
            convention_from=case.record.convention_from,
            warnings=case.record.warnings,
        )
        self._done.written[case_id], self._done.cases[case_id] = paths[MASK], noted
        if was_there:
            self._done.replaced.append(case_id)
        if before and self._folder:
            self._remove_outdated(case_id, self._folder, before.files.items() - noted.files.items())
        self._notes.cases[case_id], self._unwritten = noted, True
        if time.monotonic() > self._written_at + NOTES_SECONDS:
            self.write_notes()

    def _remove_outdated(
        self, case_id: str, folder: Path, files: Iterable[tuple[str, str]]
    ) -> None:
        """Remove probabilities that do not belong to the mask any more, if nobody changed them."""
        for name, checksum in files:
            path = folder / Path(name).name
            if path.is_file() and sha256(path) == checksum:
                path.unlink()
                self._done.warnings.append(f"{case_id}: {name} was of the earlier mask: removed")

    def _pick(self, case_id: str, case: Case) -> tuple[Predictor, str]:
        """What predicts a case, and how in words where a budget decides."""
        if self._budget is None:
            return self._predictor, ""
        choice = self._budget.choose(case.image, case.modalities)
        if choice.seconds > self._budget.seconds:
            found = f"{choice} is the fastest way and takes about {choice.seconds:.3g} s"
            expected = f"no more than the budget of {self._budget.seconds:g} s"
            late = Finding(case_id, found, expected, "allow more time", case_id, "warning")
            self._done.findings.append(late)
        return choice.predictor, str(choice)

    def write_notes(self) -> None:
        """Write what is not yet; masks without their notes are good, but predicted again."""
        if self._folder is None or not self._unwritten:
            return
        self._written_at, self._unwritten = time.monotonic(), False
        try:
            self._notes.write(self._folder)
            self._done.unnoted = ""
        except OSError as error:
            what = f"{self._folder / PREDICTIONS}: cannot be written ({error.strerror})"
            self._done.unnoted = f"{what}; another call will predict again what it does not list"

    def _write(self, logits: Tensor, record: CaseRecord, paths: Mapping[str, Path]) -> None:
        """Write probabilities, then the mask, each in the files' grid."""
        for number, region in enumerate(self._predictor.task.regions):
            if region in paths:
                probabilities = expit(file_logits(logits[number], record))
                # NIfTI has no float16. Rounded to it, float32 takes half the space when compressed.
                rounded = probabilities.astype(np.float16).astype(np.float32)
                _write(paths[region], rounded, record, f"{PREDICTED}: probability of {region}")
        label = self._predictor.labels(logits, record).file
        write_mask(paths[MASK], label, record, self._source.task)


def write_mask(path: Path, label: NDArray[np.uint8], record: CaseRecord, task: Task) -> None:
    """Write canonical labels (*record.geometry.shape) in the values of the case's files.

    Raises:
        RunError: the file cannot be written.
    """
    _write(path, task.from_canonical(label, record.convention), record, PREDICTED)


def _write(path: Path, voxels: NDArray[np.generic], record: CaseRecord, description: str) -> None:
    try:
        nifti.write(path, voxels, record.geometry, description, sync=True)
    except OSError as error:
        kept = ", and the earlier file is kept" if path.exists() else ""
        raise RunError(
            f"{path}: cannot be written ({error.strerror}){kept}; make room, and repeat the command"
        ) from error


def naming_of(predictor: Predictor, data: Path) -> Manifest:
    """How to read raw cases for a run.

    File names and label convention are those of the manifest in the folder, or beside the folder
    of one case, else the run's; crop, margin and type are always the run's. Only the images that
    the network sees are needed; other images are not read.

    Raises:
        ConfigError: that manifest is not readable, or of another task.
    """
    found = predictor.manifest
    if path := manifest_in(data, real_path(data).parent):
        found = load_manifest(path)
        check_task(predictor, found.task, path)
    kept = tuple(name for name in found.task.modalities if name in predictor.needed)
    changes = {name: getattr(found, name) for name in ("task", *NAMING)}
    return predictor.manifest.model_copy(update=changes).with_modalities(kept)


def _of_store(predictor: Predictor, store: Store) -> Source:
    check_task(predictor, store.task, store.path)
    contents = store.contents()
    records = contents.records
    if not records:
        adding = hints.preprocess(store.path)
        raise StoreError(f"{store.path}: no case in this store; add some with `{adding}`")
    warnings = [
        warning
        for member in predictor.members
        for warning in store_warnings(member, store, contents, list(records))
    ]
    return Source(
        store.path,
        store.task,
        {
            case_id: Unread(partial(_stored, store, record), partial(_hash_stored, record))
            for case_id, record in records.items()
        },
        warnings=[*dict.fromkeys(warnings), *filter(None, [contents.absence])],
    )


def _stored(store: Store, record: CaseRecord) -> Case:
    return Case(store.read_volume(record.case_id)[0], store.task.modalities, record)


def _hash_stored(record: CaseRecord) -> str:
    return hash_of(record.model_dump(mode="json", exclude={"row", "software"}))


def _of_folder(predictor: Predictor, folder: Path) -> Source:
    manifest = naming_of(predictor, folder)
    discovery = discover(folder, manifest, labels=False, may_lack=predictor.may_lack)
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
    cases = {}
    for files in discovery.cases:
        own = manifest
        if len(files.images) < len(manifest.task.modalities):
            own = manifest.with_modalities(tuple(files.images))
        cases[files.case_id] = Unread(partial(_raw, files, own), partial(_hash_raw, files, own))
    lacking = [name for name in predictor.needed if name not in manifest.task.modalities]
    warnings = [f"{folder} has no {name}: predicted without it" for name in lacking]
    return Source(folder, manifest.task, cases, findings, warnings, discovery.layout_line)


def _raw(files: CaseFiles, manifest: Manifest) -> Case:
    prepared = prepare(files, manifest)
    return Case(prepared.image, manifest.task.modalities, prepared.record)


def _hash_raw(files: CaseFiles, manifest: Manifest) -> str:
    """Of the files' content, of what their names say of them, and of how they are read."""
    paths = set(files.images.values())
    content = {str(path): sha256(path) for path in paths}
    return hash_of(
        {
            "images": {modality: content[str(path)] for modality, path in files.images.items()},
            "names": [path.name for path in files.images.values()],
            "layout": files.layout,
            "convention": [files.suggested_convention, files.states_convention],
            "parameters": parameters(manifest),
        }
    )

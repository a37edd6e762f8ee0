"""A run's network, ready to predict, from the run's folder or a model file."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common import hints
from common.errors import CheckpointError, ConfigError
from common.manifest import Manifest
from common.names import some
from common.record import CaseRecord, differences, hash_of
from common.settings import parse
from common.splits import ListSplits, assign, require
from common.store import Store
from common.store.reader import Contents
from common.task import Task
from common.volume import foreground
from train import checkpoint, model_file
from train.checkpoint import Which
from train.config import TrainConfig
from train.inference import sliding_window
from train.position import position_of
from train.postprocess import CaseLabels, PostprocessConfig, case_labels
from train.precision import Compute, choose_compute, configure_float32
from train.run_folder import check_run, read_config, read_manifest, read_run_file, read_tuned

SplitCases = dict[str, list[str]]
"""Split to ids of its cases."""


@dataclass(frozen=True)
class LoadedRun:
    """A network with everything that its predictions depend on."""

    model: nn.Module  # on the compute device
    config: TrainConfig
    manifest: Manifest  # how its cases were preprocessed
    compute: Compute
    run_dir: Path  # the run's folder, or its model file
    which: Which  # the checkpoint that the weights are from
    epochs: int  # that the network was trained for
    changes: tuple[str, ...] = ()  # how it predicts otherwise than in training, as `flips=8`

    @property
    def task(self) -> Task:
        """Modalities, labels and regions of the run."""
        return self.manifest.task

    @property
    def needed(self) -> tuple[str, ...]:
        """The modalities that the network sees, in its order."""
        return self.config.modalities_of(self.task)

    @cached_property
    def origin(self) -> "TrainedOn":
        """The store and the cases that it was trained on.

        Raises:
            RunError: the run's folder does not tell.
        """
        return trained_on(self.run_dir)

    @property
    def members(self) -> tuple["LoadedRun", ...]:
        """Itself: what an ensemble has several of."""
        return (self,)

    @property
    def may_lack(self) -> tuple[str, ...]:
        """The modalities of which a case may lack one, as the run was trained without each."""
        trained = self.config.augment.modality_dropout.probability > 0 and len(self.needed) > 1
        return self.needed if trained else ()

    def result(self, name: str) -> Path:
        """Where results of this name are written: in the run's folder, or beside the model file."""
        path = self.run_dir
        return path.with_name(f"{path.stem}-{name}") if path.is_file() else path / name

    def logits(self, image: NDArray[np.floating], modalities: Sequence[str] = ()) -> Tensor:
        """Logits (regions, D, H, W) float32 of a whole volume (modalities, D, H, W) as stored.

        `modalities` are the volume's, of which the network may see some; by default the task's. One
        of `may_lack` that is not there is background.

        Raises:
            InferenceError: the network gives NaN or infinity.
            ConfigError: an image is missing.
        """
        return self._predict(image, modalities, 1)

    def head_logits(self, image: NDArray[np.floating], modalities: Sequence[str] = ()) -> Tensor:
        """Each head's logits (heads, regions, D, H, W): the main one's, then from fine to coarse.

        Otherwise as `logits`.
        """
        found = self._predict(image, modalities, self.config.model.outputs)
        return found.reshape(-1, len(self.task.regions), *found.shape[1:])

    def _predict(
        self, image: NDArray[np.floating], modalities: Sequence[str], outputs: int
    ) -> Tensor:
        there = modalities or self.task.modalities
        self.check_images(there, "the volume")
        rows = [there.index(name) if name in there else len(there) for name in self.needed]
        volume = torch.from_numpy(np.ascontiguousarray(image)).to(self.compute.device)
        if len(there) in rows:
            volume = torch.cat([volume, torch.zeros_like(volume[:1])])
        volume = volume[rows]
        if self.config.foreground_channel:
            volume = torch.cat([volume, foreground(volume.unbind())[None].to(volume.dtype)])
        return sliding_window(
            self.model,
            volume,
            self.manifest.crop,
            self.config.inference,
            self.compute,
            regions=len(self.task.regions),
            dims=self.config.model.dims,
            outputs=outputs,
        )

    def labels(self, logits: Tensor, record: CaseRecord) -> CaseLabels:
        """Canonical labels of a case's logits, post-processed."""
        return case_labels(logits, record, self.task, self.postprocess)

    @property
    def postprocess(self) -> PostprocessConfig:
        """How probabilities become labels."""
        return self.config.inference.postprocess

    @property
    def is_tuned(self) -> bool:
        """Whether its post-processing is what `tune` picked."""
        path = self.run_dir
        tuned = model_file.describe(path).postprocess if path.is_file() else read_tuned(path)
        return self.postprocess == tuned != PostprocessConfig()

    def map(self, change: Callable[["LoadedRun"], "LoadedRun"]) -> "LoadedRun":
        """Itself, changed: what an ensemble does to each of its members."""
        return change(self)

    def check_images(self, there: Sequence[str], where: str | Path) -> None:
        """Check that all images are there that the network needs.

        Raises:
            ConfigError: one is missing.
        """
        missing = [name for name in self.needed if name not in there]
        if len(missing) > 1 or not {*missing} <= {*self.may_lack}:
            action = "use data that have these, or a run that needs fewer"
            if self.may_lack:
                action = f"it may lack one of them; {action}"
            raise ConfigError(
                f"{where} has no {', '.join(missing)}, only {', '.join(there)}; the run needs "
                f"{', '.join(self.needed)}: {action}"
            )


@dataclass(frozen=True)
class Trained:
    """What training gave: all that a run's folder or a model file holds for predictions."""

    config: TrainConfig
    manifest: Manifest
    weights: dict[str, Tensor]
    which: Which  # the checkpoint that they are from
    epochs: int  # of training
    tuned: PostprocessConfig  # what `tune` picked, on top of the configuration


def load_run(
    run_dir: Path,
    which: Which = "best",
    device: str = "auto",
    overrides: Sequence[str] = (),
) -> LoadedRun:
    """Read a run's folder or a model file; `overrides` are of how it predicts: `inference.flips=8`.

    Post-processing that was tuned is applied. The precision is the run's where the device has it.

    Raises:
        RunError: there is no such run.
        CheckpointError: the checkpoint is missing or damaged.
        ModelFileError: the model file is damaged, or of another version.
        ConfigError: the configuration is of another version, the device is not available, or an
            override is not of `inference`.
    """
    trained = read_trained(run_dir, which)
    config, changes = to_predict(trained, run_dir, overrides)
    compute = choose_compute(device, config.precision)
    configure_float32(compute.precision)
    task = trained.manifest.task
    checkpoint.check_weights(config.blueprint(task), trained.weights)
    model = config.build_network(task, compute.device)
    checkpoint.load_weights(model, trained.weights)
    return LoadedRun(
        model, config, trained.manifest, compute, run_dir, trained.which, trained.epochs, changes
    )


def read_trained(run_dir: Path, which: Which = "best") -> Trained:
    """Read a run's folder or a model file.

    Raises:
        RunError, CheckpointError, ModelFileError, ConfigError: as `load_run`.
    """
    if model_file.is_named(run_dir):
        return _from_file(run_dir, which)
    return _from_folder(run_dir, which)


def _from_file(path: Path, which: Which) -> Trained:
    model = model_file.read(path)
    description, there = model.description, model.description.training.checkpoint
    if which not in {"best", there}:
        raise CheckpointError(f"{path}: holds the {there} checkpoint alone; leave --checkpoint out")
    return Trained(
        description.config,
        description.manifest,
        model.weights,
        there,
        description.training.epochs,
        description.postprocess,
    )


def _from_folder(run_dir: Path, which: Which) -> Trained:
    check_run(run_dir)
    config, manifest, run = read_config(run_dir), read_manifest(run_dir), read_run_file(run_dir)
    if which == "best" and not os.path.lexists(checkpoint.checkpoint_path(run_dir, which)):
        again = hints.resume(run.store, run_dir)
        raise CheckpointError(
            f"{run_dir}: no best checkpoint yet, because the run was never validated; resume with "
            f"`{again}`, or use the last checkpoint with --checkpoint last"
        )
    saved = checkpoint.load(run_dir, which)
    epochs = position_of(saved.state, manifest.task, run_dir).epoch - 1  # of the one under way
    weights = saved.weights if config.ema is None else saved.average
    return Trained(config, manifest, weights, which, epochs, read_tuned(run_dir))


def to_predict(
    trained: Trained, run_dir: Path, overrides: Sequence[str] = ()
) -> tuple[TrainConfig, tuple[str, ...]]:
    """A run's configuration with what was tuned and overridden, and which of these change it.

    Raises:
        ConfigError: an override is not of `inference`.
    """
    own = trained.config
    tuned = [f"inference.postprocess={trained.tuned.model_dump_json()}"]
    values = own.model_dump(mode="json")
    config = parse(TrainConfig, values, str(run_dir), [*tuned, *overrides])
    try:
        config.inference.postprocess.check_regions(trained.manifest.task)
    except ConfigError as error:
        raise ConfigError(f"{run_dir}: {error}") from error
    if config.model_copy(update={"inference": own.inference}) != own:
        keys = ", ".join(f"inference.{name}" for name in type(config.inference).model_fields)
        raise ConfigError(
            f"{' '.join(overrides)}: {run_dir} is already trained; only {keys} can be changed"
        )
    before, after = (each.inference.model_dump(mode="json") for each in (own, config))
    changed = [name for name in after if after[name] != before[name]]
    return config, tuple(f"{name}={_brief(after[name])}" for name in changed)


def suffix(which: Which, changes: Sequence[str]) -> str:
    """What the names of results have that are not of the best checkpoint as it was trained."""
    return "".join(f"-{part}" for part in (which, *changes) if part != "best")


def _brief(value: object) -> str:
    """A setting's value in the name of a file; of several values a hash."""
    return hash_of(value)[:8] if isinstance(value, dict) else json.dumps(value)


@dataclass(frozen=True)
class TrainedOn:
    """The store and the cases that a run was trained on."""

    store: str  # its path; a model file tells none
    fingerprint: str
    cases: SplitCases | None  # by split; None in a model file, which names no case
    split: str = ""  # of a model file: a hash of `cases`


def trained_on(run_dir: Path) -> TrainedOn:
    """What a run's folder or a model file says of its data.

    Raises:
        ModelFileError, ConfigError: as `load_run`.
    """
    if run_dir.is_file():
        training = model_file.describe(run_dir).training
        return TrainedOn("", training.store_fingerprint, None, training.split)
    run = read_run_file(run_dir)
    return TrainedOn(run.store, run.store_fingerprint, run.cases)


def store_of(loaded: LoadedRun) -> str:
    """The path of the store that a run was trained on.

    Raises:
        ConfigError: it is a model file, which does not tell.
    """
    if not loaded.origin.store:
        raise ConfigError(
            f"{loaded.run_dir}: a model file does not say where its store is; add --store S"
        )
    return loaded.origin.store


def _known_cases(loaded: LoadedRun, origin: TrainedOn, contents: Contents) -> SplitCases | None:
    """The cases of the run's splits; None where a model file is not known to be of these cases.

    A model file names no case. Where its rule divides the store's cases into the same lists, these
    are known.
    """
    if origin.cases is not None:
        return origin.cases
    divided = assign(loaded.config.splits_of(contents.manifest), contents.patients)
    return divided if hash_of(divided) == origin.split else None


def split_cases(loaded: LoadedRun, contents: Contents, split: str) -> list[str]:
    """Ids of the cases of a split: as recorded by the run if the store is its own.

    Another store's cases are divided by the lists of the run, else of the store. Without lists,
    patients that the run recorded stay in their split, as when its store has grown, and the run's
    rule divides the others.

    Raises:
        ConfigError: the split is empty, or there is none of this name.
    """
    origin = loaded.origin
    recorded = _known_cases(loaded, origin, contents) or {}
    if recorded and origin.fingerprint == contents.fingerprint:
        return require(split, recorded, contents.patients)
    patients = contents.patients
    for rule in (loaded.config.splits, contents.manifest.splits):
        listed = assign(rule, patients) if isinstance(rule, ListSplits) else {}
        if any(listed.values()):
            return contents.split(split, listed)
    patient_of = contents.manifest.patient_of
    home = {patient_of(case): name for name, cases in recorded.items() for case in cases}
    divided = assign(loaded.config.splits_of(contents.manifest), patients)
    found = {name: list[str]() for name in divided}
    for name, cases in divided.items():
        for case in cases:
            found[home.get(patients[case], name)].append(case)
    return contents.split(split, {name: sorted(cases) for name, cases in found.items()})


def store_warnings(
    loaded: LoadedRun, store: Store, contents: Contents, case_ids: Sequence[str]
) -> list[str]:
    """Why results on these cases may mislead.

    The reasons are another store, with its other preprocessing parameters, and cases of patients
    that the run was trained on, which another store or patient rule may have in another split.
    """
    origin = loaded.origin
    is_own = origin.fingerprint == contents.fingerprint
    cases = _known_cases(loaded, origin, contents)
    warnings = [] if is_own else _differences(loaded, store, origin.store)
    lacking = [name for name in loaded.needed if name not in store.task.modalities]
    warnings += [f"{store.path} has no {name}: predicted without it" for name in lacking]
    if cases is None:
        return [
            *warnings,
            f"{loaded.run_dir} does not name the cases that it was trained on: if some of these "
            f"{len(case_ids)} case(s) are of its patients, their scores are too high",
        ]
    own = {*cases["train"]} if is_own else set[str]()
    seen = [
        case_id for case_id in seen_in(cases["train"], case_ids, contents) if case_id not in own
    ]
    if seen:
        warnings.append(
            f"{len(seen)} of the {len(case_ids)} case(s) are of patients that the run was trained "
            f"on: {some(seen)}"
        )
    return warnings


def used_cases(loaded: LoadedRun, contents: Contents, case_ids: Sequence[str]) -> list[str]:
    """What a run used these cases for, or others of their patients: their scores may be too high.

    Of training cases in another store `store_warnings` tells.
    """
    origin = loaded.origin
    cases = _known_cases(loaded, origin, contents)
    if cases is None:
        return []
    is_own = origin.fingerprint == contents.fingerprint
    trained = {*cases["train"]} & {*case_ids} if is_own else set[str]()
    chosen = seen_in(cases["val"], case_ids, contents)
    waited = loaded.which == "last" and loaded.config.patience is not None
    uses = (
        ("the network was trained on", True, trained),
        ("the best checkpoint was chosen on", loaded.which == "best", chosen),
        ("when to stop (patience) was decided on", waited, chosen),
        ("post-processing was picked on", loaded.is_tuned, chosen),
    )
    return [
        f"{use} {len(found)} of {len(case_ids)} case(s): scores of new cases are likely lower"
        for use, applies, found in uses
        if applies and found
    ]


def seen_in(others: Sequence[str], case_ids: Sequence[str], contents: Contents) -> list[str]:
    """The cases of the same patients as others, by the store's rule of today."""
    patient_of = contents.manifest.patient_of
    patients = {patient_of(case_id) for case_id in others}
    return [case_id for case_id in case_ids if patient_of(case_id) in patients]


def _differences(loaded: LoadedRun, store: Store, own: str) -> list[str]:
    """How a store differs from that which a run was trained on."""
    other = f"{store.path} is not the store that the run was trained on{f', {own}' if own else ''}"
    if store.path == own:
        other = f"{store.path} holds other cases or parameters than when the run was trained"
    return [other] + [
        f"{store.path} was preprocessed with {name} {theirs}, the run's store with {ours}"
        for name, (theirs, ours) in differences(store.manifest, loaded.manifest).items()
    ]

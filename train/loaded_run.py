"""A run's network, ready to predict."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from common import hints
from common.errors import CheckpointError, ConfigError, RunError
from common.manifest import Manifest, load_manifest
from common.record import differences, hash_of
from common.splits import ListSplits, assign, require
from common.store import Store
from common.store.reader import Contents
from common.task import Task
from train import checkpoint
from train.checkpoint import Which
from train.config import TrainConfig, load_config
from train.inference import sliding_window
from train.postprocess import labels_of, read_tuned
from train.precision import Compute, choose_compute, configure_float32

CONFIG = "config.yaml"
MANIFEST = "manifest.yaml"
RUN_FILE = "run.json"


@dataclass(frozen=True)
class LoadedRun:
    """A network with everything that its predictions depend on."""

    model: nn.Module  # on the compute device
    config: TrainConfig
    manifest: Manifest  # how its cases were preprocessed
    compute: Compute
    run_dir: Path
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

    def logits(self, image: NDArray[np.floating], modalities: Sequence[str] = ()) -> Tensor:
        """Logits (regions, D, H, W) float32 of a whole volume (modalities, D, H, W) as stored.

        `modalities` are the volume's, of which the network may see some; by default the task's.

        Raises:
            InferenceError: the network gives NaN or infinity.
        """
        there = modalities or self.task.modalities
        rows = [there.index(modality) for modality in self.needed]
        volume = torch.from_numpy(np.ascontiguousarray(image)).to(self.compute.device)
        return sliding_window(
            self.model,
            volume[rows],
            self.manifest.crop,
            self.config.inference,
            self.compute,
            regions=len(self.task.regions),
            dims=self.config.model.dims,
        )

    def labels(self, logits: Tensor, spacing_mm: float) -> NDArray[np.uint8]:
        """Canonical labels (D, H, W) of logits, post-processed; their voxels have this spacing."""
        return labels_of(logits, self.task, self.config.inference.postprocess, spacing_mm)


def load_run(
    run_dir: Path,
    which: Which = "best",
    device: str = "auto",
    overrides: Sequence[str] = (),
) -> LoadedRun:
    """Read a run folder; `overrides` change how it predicts, as in `inference.flips=8`.

    Post-processing that was tuned is applied. The precision is the run's where the device has it.

    Raises:
        RunError: there is no such run.
        CheckpointError: the checkpoint is missing or damaged.
        ConfigError: the configuration is of another version, the device is not available, or an
            override is not of `inference`.
    """
    if not run_dir.is_dir():
        train = hints.train(run=run_dir)
        raise RunError(f"{run_dir}: no such run; train one with `{train}`, or name another")
    absent = [name for name in (CONFIG, MANIFEST, RUN_FILE) if not (run_dir / name).is_file()]
    if absent:
        raise RunError(
            f"{run_dir}: not a run folder, {' and '.join(absent)} missing; name a folder that "
            f"`{hints.train(run='RUN')}` wrote"
        )
    config, changes = _to_predict(run_dir, overrides)
    manifest = load_manifest(run_dir / MANIFEST)
    config.inference.postprocess.check_regions(manifest.task)
    if which == "best" and not checkpoint.checkpoint_path(run_dir, which).exists():
        again = hints.resume(read_run_file(run_dir)["store"], run_dir)
        raise CheckpointError(
            f"{run_dir}: no best checkpoint yet, because the run was never validated; resume with "
            f"`{again}`, or use the last checkpoint with --checkpoint last"
        )
    compute = choose_compute(device, config.precision)
    configure_float32(compute.precision)
    loaded = checkpoint.load(run_dir, which)
    model = config.build_network(manifest.task, compute.device)
    checkpoint.load_weights(model, loaded.tensors)
    epochs = int(loaded.state["epoch"]) - 1  # the state names the epoch under way
    return LoadedRun(model, config, manifest, compute, run_dir, which, epochs, changes)


def _to_predict(run_dir: Path, overrides: Sequence[str]) -> tuple[TrainConfig, tuple[str, ...]]:
    """A run's configuration with overrides of how to predict, and which of these change it."""
    tuned = [f"inference.postprocess={read_tuned(run_dir).model_dump_json()}"]
    own, config = (
        load_config(str(run_dir / CONFIG), changes) for changes in ((), [*tuned, *overrides])
    )
    if config.model_copy(update={"inference": own.inference}) != own:
        keys = ", ".join(f"inference.{name}" for name in type(config.inference).model_fields)
        raise ConfigError(
            f"{' '.join(overrides)}: {run_dir} is already trained; only {keys} can be changed"
        )
    before, after = (each.inference.model_dump(mode="json") for each in (own, config))
    changed = [name for name in after if after[name] != before[name]]
    return config, tuple(f"{name}={_brief(after[name])}" for name in changed)


def _brief(value: object) -> str:
    """A setting's value in the name of a file; of several values a hash."""
    return hash_of(value)[:8] if isinstance(value, dict) else json.dumps(value)


def check_task(loaded: LoadedRun, found: Task, where: str | Path) -> None:
    """Check that a store or a manifest has the images that a run needs, and its labels.

    Raises:
        ConfigError: an image is missing, or the labels are others.
    """
    if missing := [name for name in loaded.needed if name not in found.modalities]:
        raise ConfigError(
            f"{where}: task {found.name} has no {', '.join(missing)}, only "
            f"{', '.join(found.modalities)}; the run needs {', '.join(loaded.needed)}: use data "
            "that have these, or a run that needs fewer"
        )
    if found.labels != loaded.task.labels:
        raise ConfigError(
            f"{where}: task {found.name} has labels {', '.join(found.labels)}; expected those of "
            f"the run, {', '.join(loaded.task.labels)}: use data of task {loaded.task.name}"
        )


def split_cases(loaded: LoadedRun, contents: Contents, split: str) -> list[str]:
    """Ids of the cases of a split: as recorded by the run if the store is its own.

    Another store's cases are divided by the lists of the run, else of the store. Without lists,
    patients that the run recorded stay in their split, as when its store has grown, and the run's
    rule divides the others.

    Raises:
        ConfigError: the split is empty, or there is none of this name.
    """
    run = read_run_file(loaded.run_dir)
    recorded: dict[str, list[str]] = run["cases"]
    if run["store_fingerprint"] == contents.fingerprint:
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
    run = read_run_file(loaded.run_dir)
    is_own, trained_on = run["store_fingerprint"] == contents.fingerprint, run["cases"]["train"]
    warnings = [] if is_own else _differences(loaded, store, run["store"])
    patient_of = contents.manifest.patient_of  # may have been corrected since
    patients = {patient_of(case_id) for case_id in trained_on}
    seen = [
        case_id
        for case_id in case_ids
        if patient_of(case_id) in patients and not (is_own and case_id in trained_on)
    ]
    if seen:
        shown = ", ".join(seen[:5]) + (", …" if len(seen) > 5 else "")
        warnings.append(
            f"{len(seen)} of the {len(case_ids)} case(s) are of patients that the run was trained "
            f"on: {shown}"
        )
    return warnings


def _differences(loaded: LoadedRun, store: Store, trained_on: str) -> list[str]:
    """How a store differs from that which a run was trained on."""
    other = f"{store.path} is not the store that the run was trained on, {trained_on}"
    if store.path == trained_on:
        other = f"{store.path} holds other cases or parameters than when the run was trained"
    return [other] + [
        f"{store.path} was preprocessed with {name} {theirs}, the run's store with {ours}"
        for name, (theirs, ours) in differences(store.manifest, loaded.manifest).items()
    ]


def read_run_file(run_dir: Path) -> dict[str, Any]:
    """What `train.run` wrote about a run beside its configuration."""
    run: dict[str, Any] = json.loads((run_dir / RUN_FILE).read_text("utf-8"))
    return run

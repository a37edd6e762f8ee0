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
from common.record import parameters
from common.store import Store
from common.task import MODALITIES, from_regions
from train import checkpoint
from train.checkpoint import Which
from train.config import TrainConfig, load_config
from train.inference import sliding_window
from train.precision import Compute, choose_compute, configure_float32

CONFIG = "config.yaml"
MANIFEST = "manifest.yaml"
RUN_FILE = "run.json"


@dataclass(frozen=True)
class LoadedRun:
    """A network with everything that its predictions depend on.

    Attributes:
        model: the network, on the compute device.
        config: what it was trained with.
        manifest: how its cases were preprocessed.
        compute: where and in which precision it predicts.
        run_dir: its run folder.
        which: the checkpoint that its weights are from.
        epochs: how many it was trained for.
    """

    model: nn.Module
    config: TrainConfig
    manifest: Manifest
    compute: Compute
    run_dir: Path
    which: Which
    epochs: int

    def logits(self, image: NDArray[np.floating]) -> Tensor:
        """Logits (3, D, H, W) float32 of a whole volume (4, D, H, W), modalities in store order.

        Raises:
            InferenceError: the network gives NaN or infinity.
        """
        rows = [MODALITIES.index(modality) for modality in self.config.modalities]
        volume = torch.from_numpy(np.ascontiguousarray(image)).to(self.compute.device)
        window = self.manifest.crop
        return sliding_window(
            self.model,
            volume[rows],
            window,
            self.config.inference,
            self.compute,
            dims=self.config.model.dims,
        )


def label_of(logits: Tensor) -> NDArray[np.uint8]:
    """Canonical labels (D, H, W) of logits (3, D, H, W): a region is where it is likelier than not.

    Scores and written masks both go through here, so what is scored is what is written.
    """
    return from_regions((logits > 0).cpu().numpy())


def load_run(
    run_dir: Path,
    which: Which = "best",
    device: str = "auto",
    overrides: Sequence[str] = (),
) -> LoadedRun:
    """Read a run folder.

    Args:
        run_dir: the folder that training wrote.
        which: the best checkpoint or the last.
        device: auto, cpu, cuda or cuda:N; the precision is the run's, as far as the device has it.
        overrides: `inference.key=value`: how to predict, where it is to differ from the run's.

    Raises:
        RunError: there is no such run.
        CheckpointError: the checkpoint is not there yet, or damaged.
        ConfigError: its configuration is of another version, the device is not there, or an
            override is of something that training has decided.
    """
    if not run_dir.is_dir():
        train = hints.train(run=run_dir)
        raise RunError(f"{run_dir}: no such run; train one with `{train}`, or name another")
    absent = [name for name in (CONFIG, MANIFEST, RUN_FILE) if not (run_dir / name).is_file()]
    if absent:
        raise RunError(
            f"{run_dir}: not a run's folder: {' and '.join(absent)} not in it; name a folder that "
            f"`{hints.train()}` wrote"
        )
    config = _to_predict(run_dir, overrides)
    manifest = load_manifest(run_dir / MANIFEST)
    if which == "best" and not checkpoint.checkpoint_path(run_dir, which).exists():
        again = hints.resume(_run_file(run_dir)["store"], run_dir)
        raise CheckpointError(
            f"{run_dir}: no best checkpoint yet, since the run was never validated; resume with "
            f"`{again}`, or use the last with --checkpoint last"
        )
    compute = choose_compute(device, config.precision)
    configure_float32(compute.precision)
    loaded = checkpoint.load(run_dir, which)
    model = config.build_network(manifest.task, compute.device)
    checkpoint.load_weights(model, loaded.tensors)
    epochs = int(loaded.state["epoch"]) - 1  # the state names the epoch under way
    return LoadedRun(model, config, manifest, compute, run_dir, which, epochs)


def _to_predict(run_dir: Path, overrides: Sequence[str]) -> TrainConfig:
    """A run's configuration with overrides of how to predict."""
    own, config = (load_config(str(run_dir / CONFIG), changes) for changes in ((), overrides))
    if config.model_copy(update={"inference": own.inference}) != own:
        keys = ", ".join(f"inference.{name}" for name in type(config.inference).model_fields)
        raise ConfigError(f"{' '.join(overrides)}: {run_dir} is trained; only {keys} may differ")
    return config


def store_notes(trained: LoadedRun, store: Store, case_ids: Sequence[str]) -> list[str]:
    """What a reader must know of results on these cases; nothing if the store is the run's own.

    Beside the store's parameters these are the cases whose patients the run was trained on:
    another store may have them in another split.
    """
    run = _run_file(trained.run_dir)
    if run["store_fingerprint"] == store.fingerprint:
        return []
    notes = [
        f"the run was trained on {run['store']} as it was then; {store.path} holds other cases, "
        "splits or parameters"
    ]
    theirs, ours = parameters(store.manifest), parameters(trained.manifest)
    notes += [
        f"{store.path} was preprocessed with {name} {theirs[name]}, the run's with {ours[name]}"
        for name in ours
        if theirs[name] != ours[name]
    ]
    patient_of = trained.manifest.patient_of
    trained_on = {patient_of(case_id) for case_id in run["cases"]["train"]}
    seen = [case_id for case_id in case_ids if patient_of(case_id) in trained_on]
    if seen:
        shown = ", ".join(seen[:5]) + (", …" if len(seen) > 5 else "")
        among = f"{len(seen)} of the {len(case_ids)} case(s)"
        notes.append(f"{among} are of patients that the run was trained on: {shown}")
    return notes


def _run_file(run_dir: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((run_dir / RUN_FILE).read_text("utf-8"))
    return run

"""A run as one file that others can use."""

import json
from dataclasses import dataclass
from pathlib import Path

from common import hints
from common.errors import ConfigError, RunError
from common.manifest import Manifest
from common.outputs import check_output
from common.record import hash_of
from common.splits import ListSplits
from train import model_file
from train.card import as_text, model_card
from train.checkpoint import Which
from train.config import TrainConfig
from train.loaded_run import Trained, read_trained
from train.model_file import Description, Training
from train.run_folder import read_run_file


@dataclass(frozen=True)
class Exported:
    """A file that was written."""

    path: Path
    replaced: bool  # whether there was one before
    notes: tuple[str, ...] = ()  # what else to know of it


def export_model(run_dir: Path, path: Path, which: Which = "best") -> Exported:
    """Write a run's model file; it names no case and no path.

    Raises:
        RunError: there is no such run.
        ConfigError: the file cannot be written there.
        OSError: the disk is full.
        FMNetError: as `train.loaded_run.load_run`.
    """
    replaced = check_target(path, model_file.ENDING)
    if run_dir.is_file():
        raise RunError(f"{run_dir}: a file; a model file is handed on by copying it")
    trained = read_trained(run_dir, which)
    card = model_card(run_dir, trained)
    cards = {
        model_file.CARD: json.dumps(card, indent=2, allow_nan=False) + "\n",
        model_file.CARD_TEXT: as_text(card),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    model_file.write(path, _describe(run_dir, trained), trained.weights, cards)
    notes = [f"weights: {trained.config.weights_used}"]
    if not card["scores"]:
        again = hints.evaluate(run_dir, which)
        notes.append(f"its card has no scores: `{again}` and export again")
    return Exported(path, replaced, tuple(notes))


def check_target(path: Path, ending: str) -> bool:
    """Whether there is a file to replace.

    Raises:
        ConfigError: the file would have another ending, or cannot be written there.
    """
    if path.suffix.lower() != ending:
        raise ConfigError(f"{path}: expected a file that ends in {ending}; name one")
    check_output(path, "file")
    return path.exists()


def _describe(run_dir: Path, trained: Trained) -> Description:
    run = read_run_file(run_dir)
    last = run.sessions[-1]
    return Description(
        config=_public_config(trained),
        manifest=_public_manifest(trained.manifest),
        postprocess=trained.tuned,
        training=Training(
            checkpoint=trained.which,
            epochs=trained.epochs,
            store_fingerprint=run.store_fingerprint,
            cases={name: len(cases) for name, cases in run.cases.items()},
            split=hash_of(run.cases),
            compute=last.compute,
            versions=last.versions,
            init=run.init.sha256 if run.init else None,
        ),
    )


def _public_config(trained: Trained) -> TrainConfig:
    """The configuration with its split as one rule, without lists of cases and paths."""
    rule = trained.config.splits_of(trained.manifest)
    splits = None if isinstance(rule, ListSplits) else rule
    own = {"splits": splits, "fold": None, "folds": None, "init": None}
    return trained.config.model_copy(update=own)


def _public_manifest(manifest: Manifest) -> Manifest:
    """The manifest without what is the site's own: its store, its cluster, lists of cases."""
    default = Manifest()
    own = ("store", "cluster", "splits")
    return manifest.model_copy(update={name: getattr(default, name) for name in own})

"""A run's figures on paper: what `fmnet-train figures` draws."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from common.errors import RunError
from common.files import write_json
from common.outputs import check_output
from common.store import Store
from train.ensemble import check_task
from train.evaluate import ScoredCase, score_cases
from train.figures.architecture import architecture_figure
from train.figures.cases import modalities_figure, samples_figure, supervision_figure
from train.figures.curves import run_figure
from train.figures.samples import PAPER_RULE, Sample, paper_samples
from train.figures.style import write_figure
from train.loaded_run import LoadedRun, split_cases, store_warnings, suffix, used_cases
from train.networks.fm_net import FMNet
from train.report.facts import best_epoch, read_epochs
from train.results import check_same_settings
from train.trainer import METRICS_FILE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = ("fig1", "fig5", "fig6", "fig7-9", "fig10-11")
BEST_RULE = "The case with a tumour whose mean Dice is highest."


@dataclass(frozen=True)
class Drawn:
    """Figures as written."""

    files: list[Path]
    left_out: list[str]
    """Figures that the run has not, and why."""
    warnings: list[str]


def draw(
    loaded: LoadedRun,
    store: Store,
    split: str,
    out: Path | None,
    on_case: Callable[[int, int], None],
) -> Drawn:
    """Score a split and write the run's figures into a folder, by default `figures` in the run's.

    `on_case` gets (cases done, cases in all).

    Raises:
        RunError: it is a model file, which has no epochs.
        ConfigError: the folder cannot be written, or has figures of other settings; or as of
            `evaluate`.
        StoreError, InferenceError: as of `evaluate`.
    """
    if loaded.run_dir.is_file():
        raise RunError(f"{loaded.run_dir}: has no epochs to draw, as a model file; name its run")
    check_task(loaded, store.task, store.path)
    contents = store.contents()
    cases = split_cases(loaded, contents, split)
    rows = read_epochs(loaded.run_dir / METRICS_FILE, loaded.task)
    settings = {
        "run": str(loaded.run_dir.resolve()),
        "checkpoint": loaded.which,
        "changes": list(loaded.changes),
        "split": split,
        "store": contents.fingerprint,
    }
    folder = out or loaded.result(f"figures{suffix(loaded.which, loaded.changes)}")
    _check(folder, settings)
    samples = list[Sample]()

    def keep(scored: ScoredCase) -> None:
        samples.append(scored.sample())
        on_case(len(samples), len(cases))

    on_case(0, len(cases))
    score_cases(loaded, store, cases, keep)
    chosen = paper_samples(samples)
    best = max(samples, key=lambda sample: (sample.has_tumour, sample.mean_dice))
    folder.mkdir(parents=True, exist_ok=True)
    files, left_out = list[Path](), list[str]()
    for name, figure in _figures(loaded, store, rows, chosen, best):
        if isinstance(figure, str):
            left_out.append(f"{name}: {figure}")
        else:
            files += write_figure(figure, folder / name)
    about = {name: sample.case_id for name, sample in chosen.items()}
    write_json(folder / "figures.json", {"settings": settings, "rule": PAPER_RULE, "cases": about})
    used = used_cases(loaded, contents, cases)
    return Drawn(files, left_out, [*used, *store_warnings(loaded, store, contents, cases)])


def _check(folder: Path, settings: Mapping[str, object]) -> None:
    check_output(folder, "folder")
    for name in FIGURES:
        for ending in ("pdf", "png"):
            check_output(folder / f"{name}.{ending}", "file")
    check_output(folder / "figures.json", "file")
    check_same_settings(folder / "figures.json", settings)


def _figures(
    loaded: LoadedRun,
    store: Store,
    rows: Sequence[dict[str, Any]],
    chosen: Mapping[str, Sample],
    best: Sample,
) -> Iterator[tuple[str, "Figure | str"]]:
    """Each figure by the name of its files, or why the run has none."""
    task, name = loaded.task, loaded.run_dir.name
    image, _ = store.read_volume(best.case_id)
    yield "fig1", modalities_figure(best, image, store.task)
    yield "fig5", _curves(loaded, rows) if rows else "no epoch is finished yet"
    yield "fig6", _architecture(loaded)
    yield "fig7-9", samples_figure(f"Predictions of {name}", PAPER_RULE, chosen, task)
    if loaded.config.model.outputs == 1:
        yield "fig10-11", "the network has no supervision heads"
        return
    logits = loaded.head_logits(image, store.task.modalities)[:, :, best.plane]
    heads = torch.sigmoid(logits).cpu().numpy()
    yield "fig10-11", supervision_figure(best, heads, BEST_RULE, task)


def _curves(loaded: LoadedRun, rows: Sequence[dict[str, Any]]) -> "Figure":
    losses = {"training": "train_loss", "validation": "val_loss"}
    dice = {region.upper(): f"val_dice_{region}" for region in loaded.task.regions}
    return run_figure(
        f"Losses and Dice of {loaded.run_dir.name}",
        [row["epoch"] for row in rows],
        {name: [row[key] for row in rows] for name, key in losses.items()},
        {name: [row.get(key) for row in rows] for name, key in dice.items()},
        best_epoch(rows, loaded.config, loaded.task),
    )


def _architecture(loaded: LoadedRun) -> "Figure | str":
    model, config = loaded.config.blueprint(loaded.task), loaded.config.model
    if not isinstance(model, FMNet):
        return f"{config.kind} is not of FM-Net's family"
    inputs = loaded.config.inputs_of(loaded.task)
    image = (len(inputs), *loaded.manifest.crop[-config.dims :])
    return architecture_figure(f"The network of {loaded.run_dir.name}", model, image)

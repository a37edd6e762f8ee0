"""A run's figures on paper."""

import json
from pathlib import Path

import numpy as np
import pytest
from cli import invoke
from matplotlib.figure import Figure
from runs import validated
from samples import sample, shown, volume

from common.store import Store
from common.task import GLIOMA, TASKS
from train.cli import app
from train.figures.cases import modalities_figure, samples_figure, supervision_figure
from train.figures.curves import run_figure
from train.figures.samples import paper_samples
from train.figures.style import as_png

NAMES = ("fig1", "fig5", "fig6", "fig7-9", "fig10-11")


def pictures(figure: Figure) -> list[np.ndarray]:
    """What every panel shows."""
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes[1:]]


def words(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def test_the_command_draws_all_figures_and_refuses_those_of_other_settings(
    at_once: Path, five: Store, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("figures", at_once, "--store", five.path, "--out", out, "--device", "cpu")
    done = invoke(app, *command, "--split", "val")
    assert done.returncode == 0
    (warning,) = done.stderr.splitlines()
    assert "chosen on 1 of 1" in warning
    for name in NAMES:
        assert (out / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    about = json.loads((out / "figures.json").read_text())
    assert set(about["cases"].values()) <= set(five.contents().split("val"))
    before = (out / "fig1.png").read_bytes()
    other = invoke(app, *command, "--split", "train")
    assert other.returncode == 2
    assert "split" in other.stderr
    assert invoke(app, *command, "--split", "val").returncode == 0
    assert (out / "fig1.png").read_bytes() == before


def test_what_a_run_has_not_is_said(store: Store, tmp_path: Path) -> None:
    validated(store, tmp_path / "run", "model.heads=0")
    done = invoke(app, "figures", tmp_path / "run")
    assert done.returncode == 0
    assert "fig10-11: the network has no supervision heads" in done.stdout
    assert "fig5: no epoch" in done.stdout
    there = {path.stem for path in (tmp_path / "run" / "figures").glob("*.pdf")}
    assert there == {"fig1", "fig6", "fig7-9"}


def test_rows_on_paper_are_the_smallest_or_no_tumour_the_worst_and_the_best() -> None:
    cases = [sample(f"case{i}", dice) for i, dice in enumerate((0.7, 0.2, 0.9, 0.5))]
    label = np.zeros((9, 16, 12), np.uint8)
    label[4, 4, 4] = 3
    small = shown(label, label, case_id="small", dice=0.1)
    empty = sample("alarm", 0.0, has_tumour=False), sample("quiet", 1.0, has_tumour=False)

    def chosen(*samples: object) -> dict[str, str]:
        return {name: each.case_id for name, each in paper_samples(samples).items()}  # type: ignore[arg-type]

    rest = {"Worst": "case1", "Best": "case2"}
    assert chosen(*cases, small) == {"Smallest tumour": "small"} | rest
    assert chosen(*cases, *empty) == {"No tumour": "alarm"} | rest
    assert chosen(small) == {"Smallest tumour": "small"}
    assert chosen(small, cases[0]) == {"Smallest tumour": "small", "Best": "case0"}


def test_a_row_has_the_image_and_both_masks_of_every_region() -> None:
    task = TASKS["post-treatment"]
    label = np.zeros((9, 16, 12), np.uint8)
    label[4, 3:8, 3:7] = 1
    chosen = {"Best": shown(label, np.zeros_like(label), task=task, case_id="$a_{b", dice=0.5)}
    figure = samples_figure("run", "the rule", chosen, task)
    panels = pictures(figure)
    assert len(panels) == 1 + 2 * len(task.regions)
    is_coloured = [bool((panel.max(axis=2) != panel.min(axis=2)).any()) for panel in panels]
    with_label_1 = [1 in members for members in task.regions.values()]
    assert is_coloured == [False, *(x for has in with_label_1 for x in (has, False))]
    assert {"$a_{b", "mean Dice 0.500"} <= set(words(figure).splitlines())
    assert "the rule" in words(figure)
    assert as_png(figure).startswith(b"\x89PNG")


def test_every_modality_is_beside_the_mask() -> None:
    case = sample("a", 0.5)
    panels = pictures(modalities_figure(case, volume(), GLIOMA))
    assert len(panels) == 5
    assert len({panel.tobytes() for panel in panels}) == 5


def test_supervision_goes_from_coarse_to_fine() -> None:
    case, regions = sample("a", 0.5), len(GLIOMA.regions)
    probabilities = np.zeros((3, regions, 16, 12), np.float32)
    for head, value in enumerate((1.0, 0.5, 0.25)):  # the main head's first
        probabilities[head] = value
    panels = pictures(supervision_figure(case, probabilities, "the rule", GLIOMA))
    assert len(panels) == regions * 5
    first = panels[:5]
    assert [panel[8, 8].tolist() for panel in first[1:4]] == [[63] * 3, [127] * 3, [255] * 3]


@pytest.mark.parametrize("best", [None, 3])
def test_the_best_epoch_of_a_run_is_marked(best: int | None) -> None:
    epochs, val = [1, 3, 4], [None, 0.5, 0.7]
    figure = run_figure(
        "run", epochs, {"training": [1, 2, 3], "validation": val}, {"WT": val}, best
    )
    losses, dice = figure.axes[1:] if len(figure.axes) == 3 else figure.axes[0].child_axes
    lines = {line.get_label(): np.asarray(line.get_xdata()).tolist() for line in losses.lines}
    assert lines["training"] == [1, 3, 4]
    assert lines["validation"] == [3, 4]
    for axes in (losses, dice):
        upright = [line for line in axes.lines if list(line.get_xdata()) == [best, best]]
        assert len(upright) == (best is not None)

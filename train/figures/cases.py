"""Planes of cases on paper: modalities (Fig. 1), samples (Fig. 7–9), supervision (Fig. 10–11)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.images import intensity_window, paint, to_grey
from common.names import shortened, show
from common.task import Task, title
from train.figures.samples import DIMMED, OPACITY, Sample, centred
from train.figures.style import EDGE, PAGE, PRINT, PRINT_DOTS, SMALL, TEXT, TITLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes in inches.
LABEL, GAP, HEAD, LINE, LARGEST = 0.98, 0.03, 0.42, 0.12, 1.3

DIMMED_ON_PAPER, LIGHTER = 0.4, 0.35
"""Brightness of the image under a mask, and the share of white in the mask's colour."""
ID = 20
"""Letters of a case id that fit beside its row."""

PLACE = "Axial planes with the most tumour; the patient’s right is on the left."


@dataclass(frozen=True)
class Panel:
    """A picture of a plane."""

    picture: NDArray[np.uint8]
    """(H, W, 3)."""
    outline: NDArray[np.bool_] | None = None
    """A mask (H, W) whose outline is drawn."""
    caption: str = ""
    """In its lower right corner."""


@dataclass(frozen=True)
class Row:
    """Panels side by side."""

    name: str
    details: Sequence[tuple[str, str]]
    """Lines and their colours."""
    panels: Sequence[Panel]


def modalities_figure(sample: Sample, image: NDArray[np.floating], task: Task) -> "Figure":
    """All modalities (modalities, D, H, W) of a case in the sample's plane, and its mask."""
    planes = [to_grey(each[sample.plane], intensity_window(each)) for each in image]
    colours = list(task.region_colours.values())
    mask = paint((DIMMED * sample.grey).astype(np.uint8), sample.reference, colours, OPACITY)
    panels = [*(Panel(_rgb(plane)) for plane in planes), Panel(mask)]
    row = Row("", [*_plane_of(sample), *_legend(task)], panels)
    heads = [*(title(name) for name in task.modalities), "Mask"]
    note = f"{PLACE} Mask: smaller regions on top."
    return _grid("Modalities and mask of a case", note, heads, [row])


def samples_figure(heading: str, rule: str, chosen: Mapping[str, Sample], task: Task) -> "Figure":
    """Samples in rows by name: the image, then reference and prediction of each region.

    `rule` says how they were chosen.
    """
    heads = ["Image"]
    for region in task.regions:
        heads += [f"{region.upper()}\nreference", f"{region.upper()}\nprediction"]
    rows = [
        Row(
            name,
            [*_plane_of(sample), (f"mean Dice {sample.mean_dice:.3f}", PRINT.ink)],
            _panels(sample, task),
        )
        for name, sample in chosen.items()
    ]
    note = f"{rule}\n{PLACE} White line: the reference’s outline. Numbers: Dice of the whole case."
    return _grid(heading, note, heads, rows)


def supervision_figure(
    sample: Sample, probabilities: NDArray[np.floating], rule: str, task: Task
) -> "Figure":
    """A case's reference, then each supervision head's probability and the prediction's.

    Args:
        sample: the case's plane.
        probabilities: of its plane (heads, regions, H, W), the main head's first, then from fine to
            coarse.
        rule: how the case was chosen.
        task: the regions.
    """
    coarse_first = range(len(probabilities) - 1, 0, -1)
    heads = [
        "Reference",
        *(f"Head {k} (1/{2**k} size)" for k in coarse_first),
        "Main head",
        "Prediction",
    ]
    rows = []
    for index, (region, colour) in enumerate(task.region_colours.items()):
        reference = sample.reference[index]
        shown = [*probabilities[1:, index][::-1], probabilities[0, index]]
        greys = [_rgb((255 * each).astype(np.uint8)) for each in shown]
        panels = [
            _mask(sample, reference, colour),
            *(Panel(grey, reference) for grey in greys),
            _mask(sample, sample.prediction[index], colour, reference, sample.dice[region]),
        ]
        details = [(title(region), PRINT.ink), *(_plane_of(sample) if index == 0 else ())]
        rows.append(Row(region.upper(), details, panels))
    note = f"{rule} Heads: probability from 0 (black) to 1 (white).\n{PLACE} Line: the reference."
    return _grid("Supervision heads beside mask and prediction", note, heads, rows)


def _panels(sample: Sample, task: Task) -> list[Panel]:
    panels = [Panel(_rgb(sample.grey))]
    for index, (region, colour) in enumerate(task.region_colours.items()):
        reference, prediction = sample.reference[index], sample.prediction[index]
        panels += [
            _mask(sample, reference, colour),
            _mask(sample, prediction, colour, reference, sample.dice[region]),
        ]
    return panels


def _mask(
    sample: Sample,
    mask: NDArray[np.bool_],
    colour: str,
    outline: NDArray[np.bool_] | None = None,
    dice: float | None = None,
) -> Panel:
    """A mask on the dimmed image: lighter than on a screen, so that grey print has it too."""
    dim = (DIMMED_ON_PAPER * sample.grey).astype(np.uint8)
    channels = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    light = "#" + "".join(f"{round(each + (255 - each) * LIGHTER):02x}" for each in channels)
    caption = "" if dice is None else f"{dice:.3f}"
    return Panel(paint(dim, [mask], [light], OPACITY), outline, caption)


def _legend(task: Task) -> list[tuple[str, str]]:
    return [(f"■ {title(region)}", colour) for region, colour in task.region_colours.items()]


def _plane_of(sample: Sample) -> list[tuple[str, str]]:
    case_id = show(sample.case_id)
    half = len(case_id) // 2
    lines = [case_id] if len(case_id) <= ID else [case_id[:half], case_id[half:]]
    plane = f"plane {sample.plane + 1} of {sample.planes}"
    lines = [*(shortened(line, ID) for line in lines), plane]
    return [(text, PRINT.soft) for text in lines]


def _rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=2)


def _grid(heading: str, note: str, heads: Sequence[str], rows: Sequence[Row]) -> "Figure":
    """Rows of panels a page wide, with what the columns are above them."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panel = min(LARGEST, (PAGE - LABEL - 2 * EDGE) / len(heads) - GAP)
    foot = LINE * (note.count("\n") + 1) + 2 * EDGE
    height = HEAD + 0.12 + len(rows) * (panel + GAP) + foot
    with rc_context({"text.parse_math": False}):  # a case id may have $ in it
        figure = Figure((PAGE, height), dpi=PRINT_DOTS, facecolor=PRINT.paper)
        page = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE), ylim=(height, 0))
        page.axis("off")
        page.text(EDGE, EDGE + 0.08, show(heading), size=TITLE, weight="bold", va="center")
        page.text(EDGE, height - EDGE, note, size=SMALL, color=PRINT.soft, va="bottom")
        lefts = [EDGE + LABEL + column * (panel + GAP) for column in range(len(heads))]
        for left, head in zip(lefts, heads, strict=True):
            page.text(left, HEAD + 0.08, head, size=SMALL, va="bottom")
        side = max(max(each.picture.shape[:2]) for row in rows for each in row.panels)
        for index, row in enumerate(rows):
            top = HEAD + 0.12 + index * (panel + GAP)
            _label(page, top, row)
            for left, each in zip(lefts, row.panels, strict=True):
                box = (left / PAGE, 1 - (top + panel) / height, panel / PAGE, panel / height)
                _draw(figure.add_axes(box), each, side)
        return figure


def _label(page: "Axes", top: float, row: Row) -> None:
    page.text(EDGE, top + 0.07, row.name, size=TEXT, weight="bold", va="center")
    for index, (line, colour) in enumerate(row.details):
        down = 0.07 + (index + bool(row.name)) * LINE
        page.text(EDGE, top + down, line, size=SMALL, color=colour, va="center")


def _draw(axes: "Axes", panel: Panel, side: int) -> None:
    axes.axis("off")
    picture = np.stack([centred(panel.picture[..., i], side) for i in range(3)], axis=2)
    axes.imshow(picture, interpolation="bilinear")
    if panel.outline is not None and panel.outline.any():
        outline = centred(panel.outline, side)
        axes.contour(outline, levels=[0.5], colors=PRINT.outline, linewidths=0.5)
    corner = axes.transAxes
    axes.text(0.97, 0.03, panel.caption, transform=corner, size=SMALL, color="w", ha="right")

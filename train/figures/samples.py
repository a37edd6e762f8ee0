"""Pictures of predictions: cases in rows, regions in columns (paper Fig. 7–9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.images import intensity_window, paint, plane_with_most, shown_channel, to_grey
from common.metrics import mean_over_regions
from common.names import show
from common.task import Task, title
from common.volume import T
from train.figures.style import DOTS_PER_INCH, SCREEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes in inches.
PANEL, GAP, GROUP_GAP, MARGIN = 1.5, 0.06, 0.2, 0.28
LABEL_WIDTH, HEAD, COLUMN_HEAD, FOOT = 1.72, 0.66, 0.5, 0.46

DIMMED = 0.55  # brightness of the image under a mask
OPACITY = 0.8  # of a mask on the image
ID_LENGTH = 26  # characters of a case id that fit beside its row
TITLE_LENGTH = 18
"""Characters of a region's title that fit beside its mean; others show the region's name."""
FOOTNOTE = (
    "Dice over the whole case. Each row shows the axial plane with the most tumour, the patient’s "
    "right on the left.\nThe white line on predictions is the reference’s outline."
)


@dataclass(frozen=True)
class Sample:
    """One axial plane of a case: the one with the most tumour."""

    case_id: str
    dice: Mapping[str, float]  # region to Dice of the whole case
    plane: int  # index in the stored volume
    planes: int  # planes of the stored volume
    tumour_voxels: int  # of the reference, in all planes
    grey: NDArray[np.uint8]  # (H, W): FLAIR or the first modality, 0 outside the brain
    reference: NDArray[np.bool_]  # (regions, H, W)
    prediction: NDArray[np.bool_]  # (regions, H, W)

    @property
    def has_tumour(self) -> bool:
        """Whether the reference has any, in any plane."""
        return self.tumour_voxels > 0

    @property
    def mean_dice(self) -> float:
        """Over the regions."""
        return mean_over_regions(self.dice)


def sample_of(  # noqa: PLR0913 - a case, its score and its volumes
    case_id: str,
    dice: Mapping[str, float],
    task: Task,
    *,
    image: NDArray[np.floating],
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
) -> Sample:
    """The plane to show of a case: with the most tumour, else the most predicted, else brain.

    The image (modalities, D, H, W) is normalised with background 0; the canonical labels are
    (D, H, W).
    """
    shown = image[shown_channel(task.modalities)]
    plane = plane_with_most(0, reference > 0, prediction > 0, shown != 0)
    return Sample(
        case_id,
        dice,
        plane,
        len(shown),
        int(np.count_nonzero(reference)),
        to_grey(shown[plane], intensity_window(shown)),
        task.to_regions(reference[plane]),
        task.to_regions(prediction[plane]),
    )


def choose_samples(samples: Sequence[Sample]) -> list[tuple[str, Sample]]:
    """The worst, the median and the best case with a tumour, and one without; each with its name.

    Of several cases without a tumour it is the worst, which has a false alarm if any has.
    """
    ranked = sorted(samples, key=lambda sample: (sample.mean_dice, sample.case_id))
    tumours = [sample for sample in ranked if sample.has_tumour]
    chosen: list[tuple[str, Sample]] = []
    if len(tumours) == 1:
        chosen.append(("The case", tumours[0]))
    elif tumours:
        chosen.append(("Worst", tumours[0]))
        if len(tumours) > 2:
            chosen.append(("Median", tumours[(len(tumours) - 1) // 2]))
        chosen.append(("Best", tumours[-1]))
    chosen += [("No tumour", sample) for sample in ranked if not sample.has_tumour][:1]
    return chosen


PAPER_RULE = (
    "Chosen by rule: the worst case without a tumour, or the case with the smallest; the case with "
    "a tumour whose mean Dice is lowest, and whose is highest."
)


def paper_samples(samples: Sequence[Sample]) -> dict[str, Sample]:
    """The samples of `PAPER_RULE` by name, each case once."""
    ranked = sorted(samples, key=lambda sample: (sample.mean_dice, sample.case_id))
    empty = [sample for sample in ranked if not sample.has_tumour]
    first = empty[0] if empty else min(ranked, key=lambda sample: sample.tumour_voxels)
    rest = [sample for sample in ranked if sample.has_tumour and sample is not first]
    chosen = {"No tumour" if empty else "Smallest tumour": first}
    if len(rest) > 1:
        chosen["Worst"] = rest[0]
    if rest:
        chosen["Best"] = rest[-1]
    return chosen


def overlay(sample: Sample, task: Task) -> NDArray[np.uint8]:
    """A sample for TensorBoard: the image, the reference and the prediction, (H, 3·W, 3)."""
    colours = list(task.region_colours.values())
    nothing = np.zeros_like(sample.reference)
    panels = [
        paint(sample.grey, masks, colours, OPACITY)
        for masks in (nothing, sample.reference, sample.prediction)
    ]
    return np.concatenate(panels, axis=1)


def evaluation_figure(
    samples: Sequence[tuple[str, Sample]], heading: str, mean_dice: Mapping[str, float], task: Task
) -> "Figure":
    """Named samples in rows: the image, then reference and prediction of each region."""
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # a case id may have $ in it
        return _drawn(samples, show(heading), mean_dice, task)


def _drawn(
    samples: Sequence[tuple[str, Sample]], heading: str, mean_dice: Mapping[str, float], task: Task
) -> "Figure":
    from matplotlib.figure import Figure

    rows, columns = len(samples), 1 + 2 * len(task.regions)
    width = _left(columns - 1) + PANEL + MARGIN
    height = HEAD + COLUMN_HEAD + rows * PANEL + (rows - 1) * GAP + FOOT + MARGIN
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=SCREEN.paper)
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, width), ylim=(height, 0))  # inches from the top left
    page.axis("off")
    _draw_heading(page, heading, mean_dice, task)
    side = max(max(sample.grey.shape) for _, sample in samples)
    for row, (name, sample) in enumerate(samples):
        top = HEAD + COLUMN_HEAD + row * (PANEL + GAP)
        _draw_label(page, top, name, sample)
        for column in range(columns):
            left = _left(column)
            axes = figure.add_axes(
                (left / width, 1 - (top + PANEL) / height, PANEL / width, PANEL / height)
            )
            _draw_panel(axes, sample, column, side, task)
    page.text(MARGIN, height - MARGIN, FOOTNOTE, color=SCREEN.soft, size=8, va="bottom")
    return figure


def _left(column: int) -> float:
    """Where a column begins: the image, then a pair for each region."""
    groups = (column + 1) // 2
    gaps = groups * GROUP_GAP + (column - groups) * GAP
    return MARGIN + LABEL_WIDTH + column * PANEL + gaps


def _draw_heading(page: "Axes", heading: str, mean_dice: Mapping[str, float], task: Task) -> None:
    page.text(MARGIN, MARGIN + 0.1, heading, color=SCREEN.ink, size=13, weight="bold", va="center")
    top = HEAD + COLUMN_HEAD
    shown = title(task.modalities[shown_channel(task.modalities)])
    page.text(_left(0), top - 0.09, shown, color=SCREEN.soft, size=8.5)
    for index, (region, colour) in enumerate(task.region_colours.items()):
        left, right = _left(1 + 2 * index), _left(2 + 2 * index)
        name = title(region) if len(title(region)) <= TITLE_LENGTH else region.upper()
        mean = f"mean Dice {mean_dice[region]:.3f}"
        page.text(left, top - 0.3, name, color=colour, size=10.5, weight="bold")
        page.text(right + PANEL, top - 0.3, mean, color=SCREEN.ink, size=9, ha="right")
        page.text(left, top - 0.09, "reference", color=SCREEN.soft, size=8.5)
        page.text(right, top - 0.09, "prediction", color=SCREEN.soft, size=8.5)


def _draw_label(page: "Axes", top: float, name: str, sample: Sample) -> None:
    case_id, half = show(sample.case_id), ID_LENGTH // 2
    if len(case_id) > ID_LENGTH:
        case_id = f"{case_id[: half - 1]}…{case_id[-half:]}"
    lines = (
        (0.16, name, SCREEN.ink, 11, "bold"),
        (0.42, case_id, SCREEN.soft, 8, "normal"),
        (0.62, f"plane {sample.plane + 1} of {sample.planes}", SCREEN.soft, 8, "normal"),
        (0.88, f"mean Dice {sample.mean_dice:.3f}", SCREEN.ink, 9, "normal"),
    )
    for down, text, colour, size, weight in lines:
        page.text(MARGIN, top + down, text, color=colour, size=size, weight=weight, va="center")


def _draw_panel(axes: "Axes", sample: Sample, column: int, side: int, task: Task) -> None:
    """One panel; in LPS arrays anterior is up and the patient's right on the left."""
    axes.axis("off")
    grey = centred(sample.grey, side)
    if column == 0:
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
        return
    index, predicted = (column - 1) // 2, column % 2 == 0
    region = task.region_names[index]
    reference, prediction = (
        centred(masks[index], side) for masks in (sample.reference, sample.prediction)
    )
    mask, colour = prediction if predicted else reference, task.region_colours[region]
    axes.imshow(paint((DIMMED * grey).astype(np.uint8), [mask], [colour], OPACITY))
    if not predicted:
        return
    if reference.any():
        axes.contour(reference, levels=[0.5], colors=SCREEN.outline, linewidths=0.7)
    axes.text(
        0.96,
        0.04,
        f"{sample.dice[region]:.3f}",
        transform=axes.transAxes,
        color=SCREEN.ink,
        size=9,
        weight="bold",
        ha="right",
        va="bottom",
    )


def centred(plane: NDArray[T], side: int) -> NDArray[T]:
    """A plane (H, W) in the middle of a square, so that all panels have one scale."""
    square = np.zeros((side, side), plane.dtype)
    top, left = ((side - size) // 2 for size in plane.shape)
    square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return square

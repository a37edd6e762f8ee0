"""Pictures of predictions: sample cases in rows, regions in columns (paper Fig. 7–9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.metrics import mean_over_regions
from common.task import MODALITIES, REGION_COLOURS, REGIONS, to_regions
from common.volume import T

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REGION_NAMES = {"wt": "Whole tumour", "tc": "Tumour core", "et": "Enhancing tumour"}

PAPER, INK, SOFT, OUTLINE = "#121316", "#e9e9e6", "#a2a7b0", "#ffffff"
DOTS_PER_INCH = 160

# Sizes in inches.
PANEL, GAP, GROUP_GAP, MARGIN = 1.5, 0.06, 0.2, 0.28
LABEL_WIDTH, HEAD, COLUMN_HEAD, FOOT = 1.72, 0.66, 0.5, 0.36

DIMMED = 0.55
"""Brightness of the image under a mask."""
OPACITY = 0.8
"""Of a mask on the image."""
ID_LENGTH = 26
"""Characters of a case id that fit beside its row."""


@dataclass(frozen=True)
class Sample:
    """The axial plane of a case that says most: the one with the most tumour.

    Attributes:
        case_id: the case.
        dice: region to Dice of the whole volume.
        plane: its index in the stored volume.
        planes: how many there are.
        has_tumour: whether the expert marked any, in this plane or another.
        grey: (H, W) FLAIR, 0 outside the brain.
        reference: (H, W) the expert's canonical labels.
        prediction: (H, W) predicted canonical labels.
    """

    case_id: str
    dice: Mapping[str, float]
    plane: int
    planes: int
    has_tumour: bool
    grey: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    prediction: NDArray[np.uint8]

    @property
    def mean_dice(self) -> float:
        """Over the regions."""
        return mean_over_regions(self.dice)


def sample_of(
    case_id: str,
    dice: Mapping[str, float],
    image: NDArray[np.floating],
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
) -> Sample:
    """The plane to show of a volume: with the most tumour, else the most predicted, else brain.

    Args:
        case_id: the case.
        dice: region to Dice of the whole volume.
        image: (4, D, H, W) normalised, background 0.
        reference: (D, H, W) the expert's canonical labels.
        prediction: (D, H, W) predicted canonical labels.
    """
    flair = image[MODALITIES.index("flair")]
    for shown in (reference > 0, prediction > 0, flair != 0):
        if shown.any():
            break
    plane = int(shown.sum(axis=(1, 2)).argmax())
    return Sample(
        case_id,
        dice,
        plane,
        len(flair),
        bool(reference.any()),
        _grey(flair, plane),
        reference[plane].copy(),
        prediction[plane].copy(),
    )


def choose_samples(samples: Sequence[Sample]) -> list[tuple[str, Sample]]:
    """The worst, the median and the best case with a tumour, and one without; each with its name.

    Of several cases without a tumour it is the worst: the one with a false alarm, if there is one.
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


def overlay(sample: Sample) -> NDArray[np.uint8]:
    """A sample small and quick: FLAIR, the expert's regions, the predicted ones, (H, 3·W, 3)."""
    panels = [_in_colour(sample.grey)]
    for label in (sample.reference, sample.prediction):
        panel = panels[0]
        for region, mask in zip(REGIONS, to_regions(label), strict=True):  # each in the one before
            panel = _painted(panel, mask, REGION_COLOURS[region])
        panels.append(panel)
    return np.concatenate(panels, axis=1)


def evaluation_figure(
    samples: Sequence[tuple[str, Sample]], heading: str, mean_dice: Mapping[str, float]
) -> "Figure":
    """Samples in rows: the image, then mask and prediction of each region.

    Args:
        samples: each with the name of its row.
        heading: what was evaluated.
        mean_dice: region to mean over all that was evaluated, shown below the heading.
    """
    from matplotlib.figure import Figure

    rows = len(samples)
    width = 2 * MARGIN + LABEL_WIDTH + 7 * PANEL + 3 * GAP + 3 * GROUP_GAP
    height = HEAD + COLUMN_HEAD + rows * PANEL + (rows - 1) * GAP + FOOT + MARGIN
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, facecolor=PAPER)
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, width), ylim=(height, 0))  # inches from the top left
    page.axis("off")
    _draw_heading(page, heading, mean_dice)
    side = max(max(sample.grey.shape) for _, sample in samples)
    for row, (name, sample) in enumerate(samples):
        top = HEAD + COLUMN_HEAD + row * (PANEL + GAP)
        _draw_label(page, top, name, sample)
        for column in range(7):
            left = _left(column)
            axes = figure.add_axes(
                (left / width, 1 - (top + PANEL) / height, PANEL / width, PANEL / height)
            )
            _draw_panel(axes, sample, column, side)
    page.text(
        MARGIN,
        height - MARGIN,
        "Dice over the whole volume. Each row shows its axial plane with the most tumour, the "
        "patient’s right on the left. In predictions the white line is the expert’s outline.",
        color=SOFT,
        size=8,
        va="bottom",
    )
    return figure


def _left(column: int) -> float:
    """Where a column begins: the image, then three pairs."""
    groups = (column + 1) // 2
    gaps = groups * GROUP_GAP + (column - groups) * GAP
    return MARGIN + LABEL_WIDTH + column * PANEL + gaps


def _draw_heading(page: "Axes", heading: str, mean_dice: Mapping[str, float]) -> None:
    page.text(MARGIN, MARGIN + 0.1, heading, color=INK, size=13, weight="bold", va="center")
    top = HEAD + COLUMN_HEAD
    page.text(_left(0), top - 0.09, "FLAIR", color=SOFT, size=8.5)
    for index, region in enumerate(REGIONS):
        left, right = _left(1 + 2 * index), _left(2 + 2 * index) + PANEL
        colour = REGION_COLOURS[region]
        page.text(left, top - 0.3, REGION_NAMES[region], color=colour, size=10.5, weight="bold")
        page.text(
            right,
            top - 0.3,
            f"mean Dice {mean_dice[region]:.3f}",
            color=INK,
            size=9,
            ha="right",
        )
        page.text(left, top - 0.09, "expert", color=SOFT, size=8.5)
        page.text(_left(2 + 2 * index), top - 0.09, "prediction", color=SOFT, size=8.5)


def _draw_label(page: "Axes", top: float, name: str, sample: Sample) -> None:
    case_id, half = sample.case_id, ID_LENGTH // 2
    if len(case_id) > ID_LENGTH:
        case_id = f"{case_id[: half - 1]}…{case_id[-half:]}"
    lines = (
        (0.16, name, INK, 11, "bold"),
        (0.42, case_id, SOFT, 8, "normal"),
        (0.62, f"plane {sample.plane + 1} of {sample.planes}", SOFT, 8, "normal"),
        (0.88, f"mean Dice {sample.mean_dice:.3f}", INK, 9, "normal"),
    )
    for down, text, colour, size, weight in lines:
        page.text(MARGIN, top + down, text, color=colour, size=size, weight=weight, va="center")


def _draw_panel(axes: "Axes", sample: Sample, column: int, side: int) -> None:
    """One panel; anterior is up and the patient's right on the left, as LPS arrays have it."""
    axes.axis("off")
    grey = _centred(sample.grey, side)
    region = REGIONS[max(0, column - 1) // 2]
    colour = REGION_COLOURS[region]
    if column == 0:
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
        return
    reference, prediction = (
        _centred(to_regions(label)[REGIONS.index(region)], side)
        for label in (sample.reference, sample.prediction)
    )
    predicted = column % 2 == 0
    axes.imshow(_tinted(grey, prediction if predicted else reference, colour))
    if predicted:
        if reference.any():
            axes.contour(reference, levels=[0.5], colors=OUTLINE, linewidths=0.7)
        axes.text(
            0.96,
            0.04,
            f"{sample.dice[region]:.3f}",
            transform=axes.transAxes,
            color=INK,
            size=9,
            weight="bold",
            ha="right",
            va="bottom",
        )


def _grey(flair: NDArray[np.floating], plane: int) -> NDArray[np.uint8]:
    """Intensities between the brain's 0.5 % and 99.5 % quantiles to 16–255; background is 0."""
    brain = flair[flair != 0].astype(np.float32)
    low, high = np.quantile(brain, (0.005, 0.995)) if brain.size else (0.0, 1.0)
    shown = flair[plane].astype(np.float32)
    scaled = 16 + 239 * (shown - low) / max(high - low, 1e-6)
    return np.where(shown != 0, np.clip(scaled, 16, 255), 0).astype(np.uint8)


def _centred(plane: NDArray[T], side: int) -> NDArray[T]:
    """A plane (H, W) in the middle of a square, so that all panels have one scale."""
    square = np.zeros((side, side), plane.dtype)
    top, left = ((side - size) // 2 for size in plane.shape)
    square[top : top + plane.shape[0], left : left + plane.shape[1]] = plane
    return square


def _tinted(grey: NDArray[np.uint8], mask: NDArray[np.bool_], colour: str) -> NDArray[np.uint8]:
    """A dimmed image (H, W) with a mask on it, as (H, W, 3)."""
    return _painted(_in_colour(DIMMED * grey.astype(np.float32)), mask, colour)


def _in_colour(grey: NDArray[T]) -> NDArray[T]:
    return np.repeat(grey[..., None], 3, axis=2)


def _painted(
    picture: NDArray[np.generic], mask: NDArray[np.bool_], colour: str
) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with a mask on it."""
    paint = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], np.float32)
    painted = picture.astype(np.float32)
    painted[mask] = (1 - OPACITY) * painted[mask] + OPACITY * paint
    return painted.astype(np.uint8)

"""A sheet of augmented samples: augmentations in rows, the original and draws in columns."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common.images import intensity_window, plane_with_most, shown_channel, to_grey
from common.names import show
from common.store import Store
from common.task import Task, title
from train.data.augment import AugmentConfig
from train.data.stream import Sample, Stream
from train.data.torch_loader import augmented
from train.figures.style import DOTS_PER_INCH, SCREEN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWS = 4
"""Columns beside the original."""
PANEL, GAP, MARGIN, NAMES, HEAD = 1.5, 0.05, 0.25, 1.35, 0.75
"""Sizes in inches."""
BLACK_SHARE = 0.25
"""How far below the brain's darkest values background noise is still told from black, as a share of
the brain's range."""


@dataclass(frozen=True)
class Row:
    """One augmentation, alone and on every sample."""

    name: str
    samples: tuple[Sample, ...]
    """The original, then each draw: all of one case, as both loaders give them."""


def augmentation_rows(store: Store, case_id: str, config: AugmentConfig, seed: int) -> list[Row]:
    """What each augmentation makes of a case's crop, with its own parameters, in `DRAWS` epochs.

    Raises:
        StoreError: the case cannot be read.
    """
    plain = {name: group.model_copy(update={"probability": 0.0}) for name, group in config}
    image, label = store.read_crop(case_id)
    original = Sample(image, label, ())
    rows = []
    for name, group in config:
        # A flip of all axes, always, would show one flip only.
        chance = 0.5 if name == "flip" else 1.0
        alone = plain | {name: group.model_copy(update={"probability": chance})}
        chosen = AugmentConfig.model_construct(**alone)
        stream = Stream(store, (case_id,), store.task.modalities, chosen, seed, batch_size=1)
        draws = [augmented(stream.sample(n, 0), chosen.in_order()) for n in range(DRAWS)]
        pairs = [Sample(one.numpy(), its_label.numpy(), ()) for one, its_label in draws]
        rows.append(Row(name, (original, *pairs)))
    return rows


def augmentation_figure(rows: list[Row], heading: str, task: Task) -> "Figure":
    """The sheet: of each sample the axial plane with the most tumour, and the label's outline."""
    from matplotlib.figure import Figure

    channel = shown_channel(task.modalities)
    original = rows[0].samples[0].image
    windows = []
    for low, high in map(intensity_window, original):
        windows.append((low - BLACK_SHARE * (high - low), high))
    columns = 1 + DRAWS
    width = MARGIN + NAMES + columns * (PANEL + GAP) + MARGIN
    height = HEAD + len(rows) * (PANEL + GAP) + MARGIN
    figure = Figure((width, height), dpi=DOTS_PER_INCH, facecolor=SCREEN.paper)
    name = title(task.modalities[channel])
    note = f"{name}, or the image that is named where {name} did not change; line: the label"
    top = 1 - 0.25 / height
    figure.text(MARGIN / width, top, show(heading), size=13, weight="bold", color=SCREEN.ink)
    figure.text(MARGIN / width, top - 0.25 / height, note, size=8.5, color=SCREEN.soft)
    for row, each in enumerate(rows):
        down = 1 - (HEAD + (row + 1) * (PANEL + GAP)) / height
        middle = down + PANEL / 2 / height
        row_name = each.name.replace("_", " ")
        figure.text(MARGIN / width, middle, row_name, size=10.5, color=SCREEN.ink, va="center")
        for column, sample in enumerate(each.samples):
            left = (MARGIN + NAMES + column * (PANEL + GAP)) / width
            axes = figure.add_axes((left, down, PANEL / width, PANEL / height))
            shown = _changed(original, sample.image, channel)
            _draw(axes, sample, shown, windows[shown])
            if shown != channel:
                axes.text(2, 6, title(task.modalities[shown]), size=7, color=SCREEN.ink)
            if row == 0:
                words = "original" if column == 0 else f"draw {column}"
                axes.set_title(words, size=8.5, color=SCREEN.soft, pad=3)
    return figure


def _changed(original: NDArray[np.floating], image: NDArray[np.floating], preferred: int) -> int:
    """The modality to show: the preferred one, or the first that changed if that did not."""
    changed = (image != original).any(axis=(1, 2, 3))
    return preferred if changed[preferred] or not changed.any() else int(np.argmax(changed))


def _draw(axes: "Axes", sample: Sample, channel: int, window: tuple[float, float]) -> None:
    plane = plane_with_most(0, sample.label > 0, sample.image[channel] != 0)
    axes.axis("off")
    axes.imshow(to_grey(sample.image[channel, plane], window), cmap="gray", vmin=0, vmax=255)
    if sample.label[plane].any():
        axes.contour(sample.label[plane] > 0, levels=[0.5], colors=SCREEN.outline, linewidths=0.6)

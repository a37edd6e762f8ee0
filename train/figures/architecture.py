"""A network of FM-Net's family, drawn from its module (paper Fig. 6)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from train.figures.style import EDGE, PAGE, PRINT, PRINT_DOTS, SMALL, TEXT, TITLE
from train.networks import parameter_count
from train.networks.fm_net import FMNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Sizes in inches.
TOP, FOOT, LINE, GAP = 0.8, 0.5, 0.115, 0.16
ENCODER, DECODER = 1.95, 4.8
"""Where the middles of both columns are."""
LONGEST, THICKEST, THINNEST = 1.1, 0.5, 0.02
"""Of boxes: at full resolution along, and across for the most and for few channels."""

HEAD = 0.2
"""From the longest box to the text beside it, where a head is."""

FILL, HEAD_FILL = "#b9cfe6", "#d55e00"
NOTE = (
    "A box is two convolutions; its length is to scale of the resolution, its height of channels. "
    "Squares are heads, circles attention gates.\nG: billion multiply–adds of convolutions."
)


@dataclass(frozen=True)
class Cost:
    """What a module has, and what its forward pass takes."""

    parameters: int
    operations: int  # multiply-adds of convolutions

    def __str__(self) -> str:
        return f"{_short(self.parameters)} weights, {self.operations / 1e9:.3g} G"


def costs(model: FMNet, image: Sequence[int]) -> dict[str, Cost]:
    """Every module's cost by its name, the whole network's by an empty one.

    The forward pass is of one image of this shape (modalities, *size), with all heads, and is
    counted on the meta device: nothing is computed.
    """
    with torch.device("meta"):
        blueprint = FMNet(model.config, image[0], model.main_head.out_channels).train()
        with FlopCounterMode(display=False) as counter:
            blueprint(torch.zeros(1, *image))
    counted = counter.get_flop_counts()
    name_of_all = type(blueprint).__name__
    return {
        name: Cost(
            parameter_count(module.parameters()),
            sum(counted.get(f"{name_of_all}.{name}" if name else name_of_all, {}).values()) // 2,
        )
        for name, module in blueprint.named_modules()
    }


def architecture_figure(title: str, model: FMNet, image: Sequence[int]) -> "Figure":
    """Every block of a network for an image (modalities, *size), with its weights and operations.

    The encoder goes down on the left, the decoder up on the right; skips cross between them.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"text.parse_math": False}):  # a title may have $ in it
        sheet = _Sheet(model, image)
        figure = Figure((PAGE, sheet.height), dpi=PRINT_DOTS, facecolor=PRINT.paper)
        page = figure.add_axes((0, 0, 1, 1), xlim=(0, PAGE), ylim=(sheet.height, 0))
        page.axis("off")
        page.text(EDGE, EDGE + 0.09, title, size=TITLE, weight="bold", va="center")
        page.text(EDGE, EDGE + 0.26, sheet.summary, size=TEXT, color=PRINT.ink, va="center")
        page.text(EDGE, sheet.height - EDGE, NOTE, size=SMALL, color=PRINT.soft, va="bottom")
        sheet.draw(page)
        return figure


class _Sheet:
    """Where everything is on the page, in inches from its top left."""

    def __init__(self, model: FMNet, image: Sequence[int]) -> None:
        self.model, self.config, self.image = model, model.config, image
        self.costs: Mapping[str, Cost] = costs(model, image)
        self.deepest = len(self.config.widths) - 1
        heights = [self._row_height(level) for level in range(self.deepest + 1)]
        middles = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
        self.rows = [TOP + middle + i * GAP for i, middle in enumerate(middles)]
        self.height = TOP + sum(heights) + self.deepest * GAP + FOOT

    @property
    def summary(self) -> str:
        """The network in a line."""
        whole = self.costs[""]
        heads = sum(self.costs[f"heads.{k}"].operations for k in range(self.config.heads))
        size = "×".join(map(str, self.image[1:]))
        return (
            f"{self.image[0]} × {size} in: {whole.parameters / 1e6:.1f} M weights, "
            f"{(whole.operations - heads) / 1e9:.3g} G a forward pass"
            + (f", {whole.operations / 1e9:.3g} G with all heads" if heads else "")
        )

    def draw(self, page: "Axes") -> None:
        """Draw all levels."""
        into = self._edge(0, -1)
        _arrow(page, (ENCODER, into - 0.16), (ENCODER, into))
        image = f"image: {self._shape(0, self.image[0])}"
        page.text(ENCODER, into - 0.18, image, size=SMALL, ha="center", va="bottom")
        for level, y in enumerate(self.rows):
            self._draw_encoder(page, level, y)
            if level < self.deepest:
                self._draw_skip(page, level, y)
                self._draw_decoder(page, level, y)
                self._down(page, level)
        self._draw_bottleneck(page)

    def _row_height(self, level: int) -> float:
        lines = (3 if level < self.deepest else 2) + (level <= self.config.heads)
        return max(self._thickness(level), lines * LINE)

    def _length(self, level: int) -> float:
        return float(LONGEST / 2**level)

    def _thickness(self, level: int) -> float:
        widths = self.config.widths
        return max(THINNEST, THICKEST * widths[level] / max(widths))

    def _shape(self, level: int, channels: int | None = None) -> str:
        sides = {side >> level for side in self.image[1:]}
        size = "×".join(str(side >> level) for side in self.image[1:])
        if len(sides) == 1:
            size = f"{sides.pop()}{'³' if self.config.dims == 3 else '²'}"
        return f"{channels or self.config.widths[level]} × {size}"

    def _box(self, page: "Axes", x: float, level: int) -> None:
        from matplotlib.patches import Rectangle

        length, thickness, y = self._length(level), self._thickness(level), self.rows[level]
        corner = (x - length / 2, y - thickness / 2)
        box = Rectangle(corner, length, thickness, facecolor=FILL, edgecolor=PRINT.ink, lw=0.5)
        page.add_patch(box)

    def _lines(self, page: "Axes", x: float, y: float, lines: Sequence[str], side: str) -> None:
        first = y - (len(lines) - 1) / 2 * LINE
        for index, line in enumerate(lines):
            colour = PRINT.ink if index == 0 else PRINT.soft
            colour = HEAD_FILL if "head" in line else colour
            page.text(x, first + index * LINE, line, size=SMALL, color=colour, ha=side, va="center")

    def _draw_encoder(self, page: "Axes", level: int, y: float) -> None:
        self._box(page, ENCODER, level)
        lines = [self._shape(level), str(self.costs[f"encoder.{level}"])]
        self._lines(page, ENCODER - LONGEST / 2 - 0.08, y, lines, "right")

    def _draw_decoder(self, page: "Axes", level: int, y: float) -> None:
        self._box(page, DECODER, level)
        part = f"decoder.{level}"
        block, up = self.costs[f"{part}.block"], self.costs[f"{part}.up"]
        lines = [self._shape(level), str(block), f"up: {up}", *self._draw_head(page, level)]
        self._lines(page, DECODER + LONGEST / 2 + HEAD, y, lines, "left")
        below = self.rows[level + 1] if level + 1 == self.deepest else self._edge(level + 1, -1)
        _arrow(page, (DECODER, below), (DECODER, self._edge(level, 1)))

    def _draw_head(self, page: "Axes", level: int) -> list[str]:
        """The main head or a supervision head of a level, if it has one; returns its line."""
        if level > self.config.heads:
            return []
        start = DECODER + (self._length(level) / 2 if level < self.deepest else 0)
        end, y = DECODER + LONGEST / 2 + HEAD / 2, self.rows[level]
        page.plot([start, end], [y, y], color=HEAD_FILL, linewidth=0.9)
        page.plot(end, y, "s", color=HEAD_FILL, markersize=4)
        name = "main_head" if level == 0 else f"heads.{level - 1}"
        return [f"{'main head' if level == 0 else f'head {level}'}: {self.costs[name]}"]

    def _draw_skip(self, page: "Axes", level: int, y: float) -> None:
        start, end = ENCODER + self._length(level) / 2, DECODER - self._length(level) / 2
        middle = (ENCODER + DECODER) / 2
        _arrow(page, (start, y), (end, y))
        if self.config.attention:
            page.plot(
                middle, y, "o", markersize=6, color=PRINT.ink, markerfacecolor=PRINT.paper, mew=0.8
            )
            gate = f"gate: {self.costs[f'decoder.{level}.gate']}"
            page.text(middle, y - 0.08, gate, size=SMALL, ha="center", va="bottom")

    def _down(self, page: "Axes", level: int) -> None:
        _arrow(page, (ENCODER, self._edge(level, 1)), (ENCODER, self._edge(level + 1, -1)))

    def _draw_bottleneck(self, page: "Axes") -> None:
        """Further blocks at the deepest size, one box each where they fit."""
        level, blocks = self.deepest, self.config.bottleneck
        y, length = self.rows[level], self._length(level)
        room = DECODER - ENCODER
        step = room / (blocks + 1)
        fits = step > 1.3 * length
        places = [ENCODER + step * (i + 1) for i in range(blocks)] if fits else [ENCODER + room / 2]
        places = places if blocks else []
        before = ENCODER
        for x in places:
            _arrow(page, (before + length / 2, y), (x - length / 2, y))
            self._box(page, x, level)
            before = x
        page.plot([before + length / 2, DECODER], [y, y], color=PRINT.ink, linewidth=0.7)
        if blocks:
            cost = self.costs["bottleneck"]
            text = f"bottleneck, {blocks} block{'s' if blocks > 1 else ''}: {cost}"
            below = y + self._thickness(level) / 2 + 0.04
            page.text((ENCODER + DECODER) / 2, below, text, size=SMALL, ha="center", va="top")
        head = self._draw_head(page, level)
        self._lines(page, DECODER + LONGEST / 2 + HEAD, y, head, "left")

    def _edge(self, level: int, side: int) -> float:
        """The y of a box's upper (-1) or lower (1) edge."""
        return self.rows[level] + side * self._thickness(level) / 2


def _arrow(page: "Axes", start: tuple[float, float], end: tuple[float, float]) -> None:
    style = {"arrowstyle": "-|>", "lw": 0.7, "color": PRINT.ink, "mutation_scale": 6}
    page.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0})


def _short(count: int) -> str:
    """A count in a few letters."""
    for size, unit in ((10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)

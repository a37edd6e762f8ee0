"""What all figures share: sizes, inks, how variants are told apart in grey, and how they are saved.

A figure on paper is drawn at the size at which it is printed: a column or a page of a journal wide.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal

from common.files import write_parts
from common.names import show

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 85 / 25.4, 180 / 25.4
"""Widths in inches."""
EDGE = 0.06
"""Around a figure's text, in inches."""
DOTS_PER_INCH, PRINT_DOTS = 160, 300
"""Of pictures for screens and for paper."""

TITLE, TEXT, SMALL = 8.5, 7.0, 6.0
"""Sizes of letters on paper, in points."""
TITLE_LENGTH, TITLE_LINE = 44, 0.15
"""Letters of a title that fit into a column, and the height of its line in inches."""


@dataclass(frozen=True)
class Look:
    """Colours of a figure's parts."""

    paper: str
    ink: str
    soft: str
    """Of what matters less."""
    outline: str
    """Of the reference on a prediction."""


SCREEN = Look(paper="#121316", ink="#e9e9e6", soft="#a2a7b0", outline="#ffffff")
PRINT = Look(paper="#ffffff", ink="#1a1a1a", soft="#666a70", outline="#ffffff")

COLOURS = ("#1a1a1a", "#0072b2", "#d55e00", "#009e73", "#a05080", "#b88700", "#5b5b5b", "#4fa3d1")
"""Of variants: told apart with any colour vision (Okabe and Ito 2008), and dark enough on white."""
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.6, 1.2, 1.6)), (0, (9, 2)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Dashes and marks tell variants apart without colours."""


def on_paper(  # noqa: PLR0913 - a panel and what is around it
    title: str, note: str, *, panel: float, foot: float, left: float, right: float
) -> "tuple[Figure, Axes]":
    """A figure a column wide with a panel of a height: the title above, a note at the foot.

    Sizes are in inches: of the panel, and of what is below and beside it.
    """
    from matplotlib.figure import Figure

    lines = wrap(show(title), TITLE_LENGTH)
    height = 2 * EDGE + TITLE_LINE * len(lines) + panel + foot
    figure = Figure((COLUMN, height), dpi=PRINT_DOTS, facecolor=PRINT.paper)
    top = 1 - EDGE / height
    figure.text(EDGE / COLUMN, top, "\n".join(lines), size=TITLE, weight="bold", va="top")
    figure.text(EDGE / COLUMN, EDGE / height, note, size=SMALL, color=PRINT.soft, va="bottom")
    width = COLUMN - left - right
    box = (left / COLUMN, foot / height, width / COLUMN, panel / height)
    return figure, figure.add_axes(box)


def frame(axes: "Axes", grid: Literal["both", "x"] = "both") -> None:
    """Axes on paper: two thin edges, small numbers, a faint grid."""
    axes.tick_params(labelsize=TEXT, colors=PRINT.ink, length=2, width=0.6)
    axes.grid(axis=grid, color=PRINT.ink, alpha=0.12, linewidth=0.5)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in {"left", "bottom"})
        spine.set(linewidth=0.6, color=PRINT.ink)


def as_png(figure: "Figure") -> bytes:
    """A figure as a PNG file; characters that its font lacks are drawn as boxes."""
    return _saved(figure, format="png")


def as_pdf(figure: "Figure") -> bytes:
    """The same as a PDF file, without the time at which it was made."""
    return _saved(figure, format="pdf", metadata={"CreationDate": None})


def write_figure(figure: "Figure", stem: Path) -> tuple[Path, Path]:
    """Write a figure as `stem`.pdf and `stem`.png; returns both."""
    pdf, png = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("pdf", "png"))
    write_parts(pdf, [as_pdf(figure)])
    write_parts(png, [as_png(figure)])
    return pdf, png


def _saved(figure: "Figure", **options: Any) -> bytes:  # noqa: ANN401 - as matplotlib has it
    from matplotlib import rc_context

    file = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"pdf.fonttype": 42}):  # letters that stay editable
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, **options)
    return file.getvalue()

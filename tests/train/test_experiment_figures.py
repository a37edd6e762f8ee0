"""Figures of experiments: curves of variants, and their values as bars."""

import matplotlib.colors
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from train.figures.bars import Bar, bars_figure
from train.figures.curves import curves_figure
from train.figures.style import as_pdf, as_png


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def band(axes: Axes) -> np.ndarray:
    """Corners of the only band."""
    (drawn,) = axes.collections
    return np.asarray(drawn.get_paths()[0].vertices)


def test_a_line_is_the_mean_over_seeds_and_a_band_their_range() -> None:
    seeds = [[1.0, None, 0.5], [0.8, None, 0.1, 0.0], [0.9, None, 0.3]]
    (axes,) = curves_figure("loss", {"U-Net": seeds}, "loss").axes
    (line,) = axes.lines
    assert np.asarray(line.get_xdata()).tolist() == [1, 3]  # where all seeds have a value
    assert np.asarray(line.get_ydata()) == pytest.approx([0.9, 0.3])
    corners = {(x, round(y, 6)) for x, y in band(axes)}
    assert corners == {(1, 0.8), (1, 1.0), (3, 0.1), (3, 0.5)}


def test_variants_differ_without_colour() -> None:
    curves = {f"variant {i}": [[1.0, 0.5], [1.0, 0.7]] for i in range(6)}
    (axes,) = curves_figure("loss", curves, "loss").axes
    assert len({line.get_marker() for line in axes.lines}) == 6
    for line in axes.lines:  # dark enough on white
        red, green, blue = matplotlib.colors.to_rgb(line.get_color())
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.65


@pytest.mark.parametrize("curves", [{}, {"a": []}, {"a": [[]]}, {"a": [[None, None]]}])
def test_variants_that_have_no_value_yet_can_be_drawn(curves: dict[str, list[list[None]]]) -> None:
    assert as_png(curves_figure("loss", curves, "loss")).startswith(b"\x89PNG")


def test_a_bar_begins_at_zero_and_has_its_numbers_beside_it() -> None:
    bars = {
        "U-Net $x": Bar(0.75, 0.7, 0.8, paper=0.925, points=[0.7, 0.8]),
        "one patient": Bar(0.5, None, None, paper=None, points=()),
    }
    figure = bars_figure("Dice", bars, "mean Dice")
    (axes,) = figure.axes
    widths = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert widths == [(0, 0.75), (0, 0.5)]
    drawn = [np.asarray(line.get_xdata()).tolist() for line in axes.lines]
    assert drawn == [[0.7, 0.8], [0.925]]
    for shown in ("U-Net $x", "0.750 [0.700, 0.800]", "0.925", "one patient", "0.500"):
        assert shown in texts(figure)
    assert as_pdf(figure).startswith(b"%PDF")

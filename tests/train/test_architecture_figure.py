"""The drawn architecture: every block, with its weights and operations."""

import pytest
import torch

from train.figures.architecture import architecture_figure, costs
from train.figures.style import as_png
from train.networks import FMNetConfig
from train.networks.fm_net import FMNet


def on_meta(config: FMNetConfig, inputs: int = 4) -> FMNet:
    with torch.device("meta"):
        return FMNet(config, inputs, 3)


def test_costs_are_those_of_the_real_forward_pass() -> None:
    found = costs(on_meta(FMNetConfig()), (4, 128, 128, 128))

    def total(*names: str) -> int:
        parts = [cost for name, cost in found.items() if name in names]
        return round(sum(cost.operations for cost in parts) / 1e9)

    levels = range(4)
    assert total("main_head", "heads.0", "heads.1") == 2
    assert total("") - total("heads.0", "heads.1") == 519
    assert total(*(f"encoder.{level}" for level in range(5))) == 147
    assert total(*(f"decoder.{level}.block" for level in levels)) == 326
    assert total(*(f"decoder.{level}.up" for level in levels)) == 27
    assert total(*(f"decoder.{level}.gate" for level in levels)) == 4
    assert total("bottleneck") == 14
    assert found[""].parameters == sum(p.numel() for p in on_meta(FMNetConfig()).parameters())


VARIANTS = {
    "U-Net": FMNetConfig(attention=False, heads=0, bottleneck=0, widths=(4, 8, 16)),
    "2-D": FMNetConfig(dims=2, widths=(4, 8), heads=1, bottleneck=1),
    "many blocks": FMNetConfig(widths=(4, 8, 16), heads=2, bottleneck=32),
}


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_every_part_of_a_variant_is_drawn_with_its_numbers(config: FMNetConfig) -> None:
    model = on_meta(config)
    image = (4, *(32, 32, 32)[: config.dims])
    figure = architecture_figure("a $network", model, image)
    (page,) = figure.axes
    drawn = [text.get_text() for text in page.texts]
    found = costs(model, image)
    levels = len(config.widths)
    gates = [text for text in drawn if text.startswith("gate")]
    heads = [text for text in drawn if text.startswith("head")]
    assert len(gates) == (levels - 1 if config.attention else 0)
    assert len(heads) == config.heads
    for level in range(levels):
        assert str(found[f"encoder.{level}"]) in drawn
    for level in range(levels - 1):
        assert str(found[f"decoder.{level}.block"]) in drawn
        assert f"up: {found[f'decoder.{level}.up']}" in drawn
    assert any(f"{config.bottleneck} block" in text for text in drawn) == (config.bottleneck > 0)
    assert as_png(figure).startswith(b"\x89PNG")


def test_boxes_are_to_scale_and_on_the_page() -> None:
    config = FMNetConfig(widths=(4, 8, 16), bottleneck=1)
    figure = architecture_figure("network", on_meta(config), (4, 32, 32, 32))
    (page,) = figure.axes
    boxes = {(round(box.get_width(), 4), round(box.get_height(), 4)) for box in page.patches}
    assert len(page.patches) == 3 + 2 + 1
    lengths = sorted(length for length, _ in boxes)
    heights = sorted((height for _, height in boxes), reverse=True)
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 2, 4], rel=1e-3)
    assert [height / heights[-1] for height in heights] == pytest.approx([4, 2, 1], rel=1e-3)
    figure.canvas.draw()
    for text in page.texts:
        box = text.get_window_extent().transformed(figure.transFigure.inverted())
        assert min(box.x0, box.y0) >= 0, text.get_text()
        assert max(box.x1, box.y1) <= 1, text.get_text()

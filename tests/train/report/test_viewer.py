"""The slice viewer in a real browser, under the content security policy of the reports' pages."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import opened_browser, wait, window
from PIL import Image
from scipy.ndimage import gaussian_filter
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import common.report
import train.report
from common.report.page import as_base64
from common.task import GLIOMA, POST_TREATMENT
from train.report.volumes import WINDOW, CaseVolumes, case_script, pack

SHAPE = (24, 40, 32)
SPACING_MM = (3.0, 1.0, 1.0)
HOSTILE = "<img src=x onerror=alert(1)>"
BRIGHT = (19, 6, 5)
"""A voxel near the head, the face and the patient's right."""
AXIAL, CORONAL, SAGITTAL = range(3)


def brain(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    """(4, *shape) smooth noise in an ellipsoid, background 0."""
    generator = np.random.default_rng(seed)
    grid = np.ogrid[tuple(slice(side) for side in shape)]
    inside = sum(((g - s / 2 + 0.5) / (s / 2)) ** 2 for g, s in zip(grid, shape, strict=True)) < 1
    noise = [gaussian_filter(generator.normal(size=shape), 1.5) * 4 for _ in range(4)]
    return (np.stack(noise) * inside).astype(np.float16)


def tumour(shape: tuple[int, int, int], shift: int = 0) -> np.ndarray:
    """Enhancing tumour in necrosis in oedema; canonical labels."""
    grid = np.ogrid[tuple(slice(side) for side in shape)]
    centre = (shape[0] * 0.6, shape[1] * 0.4, shape[2] * 0.35 + shift)
    scaled = ((g - c) / (s / 2) for g, c, s in zip(grid, centre, shape, strict=True))
    distance = np.sqrt(sum(part**2 for part in scaled))
    return np.select([distance < 0.12, distance < 0.22, distance < 0.35], [3, 1, 2], 0).astype("u1")


def volumes(shape: tuple[int, int, int] = SHAPE, **changes: Any) -> CaseVolumes:
    reference = tumour(shape)
    heads = np.stack([gaussian_filter((reference > n).astype(np.float32), 2) for n in range(3)])
    made = {
        "image": brain(shape, 0),
        "spacing_mm": SPACING_MM,
        "grid": tuple(side + 10 for side in shape),
        "start": (1, 2, 3),
        "reference": reference,
        "predictions": {"run A": tumour(shape, 2), HOSTILE: tumour(shape, -3)},
        "probabilities": {"head 1": heads, "head 2": heads / 2},
    }
    return CaseVolumes(**(made | changes))


def page(folder: Path, scripts: str, *cases: CaseVolumes, policy: str = "") -> Path:
    """A page with a viewer, in the reports' style, that shows the first of its cases."""
    shell, own = (
        Path(package.__path__[0]) / "templates" for package in (common.report, train.report)
    )
    style = (shell / "base.css").read_text("utf-8") + (own / "viewer.css").read_text("utf-8")
    code = "".join(path.read_text("utf-8") for path in (shell / "base.js", own / "viewer.js"))
    script = f'"use strict";(() => {{{code}{scripts}}})();'
    style_hash, script_hash = [
        as_base64(hashlib.sha256(text.encode()).digest()) for text in (style, script)
    ]
    path = folder / "page.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'sha256-{style_hash}'; script-src 'sha256-{script_hash}' {policy}\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><style>{style}</style><div class="page"><div id="viewer">'
        "</div></div>"
        f'<script type="application/json" id="cases">{json.dumps([pack(c, GLIOMA) for c in cases])}'
        f"</script><script>{script}</script>",
        "utf-8",
    )
    return path


SHOW = """
const cases = block("cases");
const viewer = globalThis.viewer = new SliceViewer(byId("viewer"));
globalThis.shown = (index) => viewer.show("case " + index, cases[index]);
if (cases.length) shown(0);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with opened_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = np.zeros((4, *SHAPE), np.float16)
    image[:, 2:-2, 2:-2, 2:-2] = -1
    z, y, x = BRIGHT
    image[:, z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = 5
    marked = volumes(image=image, reference=None, predictions={}, probabilities={})
    return page(tmp_path_factory.mktemp("page"), SHOW, volumes(), marked)


@pytest.fixture
def opened(browser: webdriver.Chrome, page_path: Path) -> webdriver.Chrome:
    browser.get(page_path.as_uri())
    wait(browser, ready)
    return browser


def ready(browser: webdriver.Chrome) -> bool:
    """Whether a case is decoded and drawn."""
    return bool(browser.execute_script("return viewer.drawMs !== undefined"))


def frames(browser: webdriver.Chrome) -> None:
    """Wait until what was asked for is drawn."""
    twice = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    browser.execute_async_script(twice)


def pixels(browser: webdriver.Chrome, plane: int) -> np.ndarray:
    """The canvas of a plane (height, width, 3)."""
    frames(browser)
    script = "return document.querySelectorAll('canvas')[arguments[0]].toDataURL('image/png')"
    data = browser.execute_script(script, plane)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data.split(",")[1]))).convert("RGB"))


def captions(browser: webdriver.Chrome) -> list[int]:
    """The number of the slice in each plane."""
    frames(browser)
    found = browser.find_elements(By.TAG_NAME, "figcaption")
    return [int(each.get_attribute("textContent").split()[1]) for each in found]


def press(browser: webdriver.Chrome, *keys: str) -> None:
    browser.execute_script("document.getElementById('viewer').focus()")
    for key in keys:
        ActionChains(browser).send_keys(key).perform()


def select(browser: webdriver.Chrome, label: str, text: str) -> None:
    """Choose the option of this text."""
    script = """
      const named = (e) => e.textContent.startsWith(arguments[0]);
      const select = [...document.querySelectorAll("label")].find(named).querySelector("select");
      select.value = [...select.options].find((e) => e.textContent === arguments[1]).value;
      select.dispatchEvent(new Event("change"));"""
    browser.execute_script(script, label, text)


def changed(before: np.ndarray, after: np.ndarray) -> int:
    return int((np.abs(before.astype(int) - after.astype(int)).max(axis=-1) > 8).sum())


def text(browser: webdriver.Chrome, name: str) -> str:
    frames(browser)
    return browser.find_element(By.CLASS_NAME, name).text


@pytest.mark.slow
class TestLook:
    @pytest.mark.parametrize(
        "overlay", ["prediction run A", "reference", "difference run A", "probability head 1"]
    )
    def test_overlay_changes_pixels_and_none_does_not(self, opened, overlay):
        select(opened, "Overlay", "none")
        press(opened, "l", "x")
        bare = [pixels(opened, plane) for plane in range(3)]
        assert all((each[..., 0] == each[..., 2]).all() for each in bare)
        select(opened, "Overlay", overlay)
        painted = [pixels(opened, plane) for plane in range(3)]
        assert all(changed(*pair) > 200 for pair in zip(bare, painted, strict=True))
        press(opened, "o")
        assert changed(bare[0], pixels(opened, 0)) == 0

    def test_difference_tells_three_kinds_by_lightness(self, opened):
        select(opened, "Overlay", "difference run A")
        select(opened, "Region", "Whole tumour")
        items = opened.find_elements(By.CLASS_NAME, "viewer-swatch")
        colours = [each.value_of_css_property("background-color") for each in items]
        rgb = [[int(part) for part in re.findall(r"\d+", each)[:3]] for each in colours]
        light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in rgb)
        assert len(light) == 3
        assert min(np.diff(light)) > 60

    def test_outline_and_opacity_and_region(self, opened):
        press(opened, "x")
        with_outline = pixels(opened, AXIAL)
        press(opened, "l")
        without = pixels(opened, AXIAL)
        assert changed(with_outline, without) > 50
        select(opened, "Region", "Enhancing tumour")
        assert changed(without, pixels(opened, AXIAL)) > 200
        select(opened, "Region", "all")
        opened.execute_script(
            "const s = document.querySelector('.viewer-controls input[type=range]');"
            "s.value = 1; s.dispatchEvent(new Event('input'))"
        )
        assert changed(without, pixels(opened, AXIAL)) > 200

    def test_second_prediction_is_its_own_and_its_name_stays_text(self, opened):
        first = pixels(opened, AXIAL)
        select(opened, "Overlay", f"prediction {HOSTILE}")
        assert changed(first, pixels(opened, AXIAL)) > 200
        assert HOSTILE in text(opened, "viewer-readout")
        assert not opened.find_elements(By.CSS_SELECTOR, "#viewer img")


@pytest.mark.slow
class TestMoves:
    def test_keys_move_the_crosshair(self, opened):
        z, y, x = captions(opened)
        press(opened, Keys.PAGE_UP, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
        assert captions(opened) == [z + 1, y - 1, x + 2]
        canvas = opened.find_elements(By.TAG_NAME, "canvas")[CORONAL]
        ActionChains(opened).click(canvas).perform()
        z, y, x = captions(opened)
        press(opened, Keys.ARROW_UP, Keys.PAGE_DOWN)
        assert captions(opened) == [z + 1, y - 1, x]

    def test_the_volume_ends(self, opened):
        press(opened, *[Keys.PAGE_UP] * SHAPE[0])
        assert captions(opened)[AXIAL] == SHAPE[0] + 1  # the volume begins with the grid's second

    def test_scroll_and_click_move_other_planes(self, opened):
        canvases = opened.find_elements(By.TAG_NAME, "canvas")
        before, (z, y, x) = pixels(opened, AXIAL), captions(opened)
        coronal = pixels(opened, CORONAL)
        wheel = "arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: 80, bubbles: true}))"
        for _ in range(3):
            opened.execute_script(wheel, canvases[AXIAL])
        assert captions(opened) == [z - 3, y, x]
        assert changed(before, pixels(opened, AXIAL)) > 200
        assert changed(coronal, pixels(opened, CORONAL)) > 20  # the crosshair
        ActionChains(opened).move_to_element_with_offset(canvases[AXIAL], 30, 40).click().perform()
        moved = captions(opened)
        assert moved[0] == z - 3
        assert moved[1] != y
        assert moved[2] != x

    def test_window_and_level_by_drag_and_reset(self, opened):
        before, at = pixels(opened, CORONAL), captions(opened)
        canvas = opened.find_elements(By.TAG_NAME, "canvas")[AXIAL]
        chain = ActionChains(opened).move_to_element(canvas).key_down(Keys.SHIFT).click_and_hold()
        chain.move_by_offset(-60, 40).release().key_up(Keys.SHIFT).perform()
        assert captions(opened) == at
        assert changed(before, pixels(opened, CORONAL)) > 1000
        press(opened, "r")
        assert changed(before, pixels(opened, CORONAL)) == 0

    def test_modalities_by_key(self, opened):
        before = pixels(opened, AXIAL)
        press(opened, "3")
        assert text(opened, "viewer-readout").count("T1CE") == 1
        assert changed(before, pixels(opened, AXIAL)) > 1000

    def test_one_plane_at_a_time_on_a_narrow_screen(self, opened):
        shown = "return [...document.querySelectorAll('canvas')].map((e) => e.clientWidth > 0)"
        assert opened.execute_script(shown) == [True] * 3
        with window(opened, 400, mobile=True):
            assert opened.execute_script(shown) == [True, False, False]
            opened.find_elements(By.CSS_SELECTOR, ".viewer-tabs button")[SAGITTAL].click()
            assert opened.execute_script(shown) == [False, False, True]
            assert pixels(opened, SAGITTAL).std() > 10
            width = "return document.documentElement.scrollWidth"
            assert opened.execute_script(width) <= 400


@pytest.mark.slow
class TestGeometry:
    def test_a_voxel_lies_where_it_should_in_all_planes(self, opened):
        opened.execute_async_script("shown(1).then(arguments[0])")
        press(opened, "x")
        opened.execute_script(
            "const sliders = document.querySelectorAll('.viewer-plane input');"
            "arguments[0].forEach((at, i) => {"
            "  sliders[i].value = at; sliders[i].dispatchEvent(new Event('input')); })",
            BRIGHT,
        )
        z, y, x = ((at + 0.5) / side for at, side in zip(BRIGHT, SHAPE, strict=True))
        # The patient's right on the left, the face up or left, the head up.
        expected = [(y, x), (1 - z, x), (1 - z, y)]
        for plane, (down, right) in enumerate(expected):
            grey = pixels(opened, plane)[..., 0].astype(float)
            where = np.argwhere(grey > 200).mean(axis=0) / grey.shape
            assert where == pytest.approx((down, right), abs=0.02)
        words = text(opened, "viewer-readout")
        assert float(re.findall(r"(-?[\d.]+) σ", words)[0]) == pytest.approx(5, abs=0.6)

    def test_lengths_are_in_mm(self, opened):
        canvases = "return [...document.querySelectorAll('canvas')]"
        size = f"{canvases}.map((e) => [e.clientHeight, e.clientWidth])"
        depth, height, width = (n * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True))
        sizes = opened.execute_script(size)
        scale = sizes[0][1] / width
        expected = [(height, width), (depth, width), (depth, height)]
        for found, wanted in zip(sizes, expected, strict=True):
            assert found == pytest.approx([scale * mm for mm in wanted], abs=2)


DECODED = """
const done = arguments[1];
const plain = (volumes) => volumes.map((each) => [...each]);
decodedCase(arguments[0]).then((found) => done({
  images: plain(found.images), reference: [...found.reference],
  predictions: plain(found.predictions), heads: found.heads.map(plain) }));
"""


@pytest.mark.slow
class TestRoundTrip:
    def test_masks_are_exact_and_images_nearly(self, browser, tmp_path):
        case = volumes()
        browser.get(page(tmp_path, "globalThis.decodedCase = decoded;", case).as_uri())
        payload = pack(case, GLIOMA)
        found = browser.execute_async_script(DECODED, payload)
        assert np.array_equal(found["reference"], case.reference.ravel())
        for mask, decoded in zip(case.predictions.values(), found["predictions"], strict=True):
            assert np.array_equal(decoded, mask.ravel())
        low, high = WINDOW
        first = payload["first_code"]
        for channel, codes in zip(case.image, np.array(found["images"]), strict=True):
            inside = channel.ravel() != 0
            assert ((codes >= first / 2) == inside).mean() > 0.999
            values = low + (codes[inside] - first) * (high - low) / (255 - first)
            error = np.abs(values - np.clip(channel.ravel()[inside].astype(float), low, high))
            assert error.mean() < 0.15
            assert np.quantile(error, 0.99) < 0.5
        step = payload["probabilities"][0]["step"]
        for name, decoded in zip(case.probabilities, found["heads"], strict=True):
            wanted = case.probabilities[name][:, ::step, ::step, ::step].reshape(3, -1)
            assert np.abs(np.array(decoded) / 255 - wanted).max() < 0.12

    def test_a_damaged_case_is_said_and_the_next_is_shown(self, opened):
        done = "viewer.show(arguments[0], {...arguments[1], reference: 'AAAA'}).then(arguments[2])"
        opened.execute_async_script(done, HOSTILE, pack(volumes(), GLIOMA))
        assert HOSTILE in text(opened, "viewer-message")
        opened.execute_async_script("shown(1).then(arguments[0])")
        assert text(opened, "viewer-message") == ""
        assert pixels(opened, AXIAL).std() > 1

    def test_a_case_beside_the_page(self, browser, tmp_path):
        listen = """
        addEventListener("fmnet-case", ({ detail }) => viewer.show(detail.id, detail.payload));
        const script = document.createElement("script");
        script.src = "cases/0.js";
        document.head.append(script);
        """
        (tmp_path / "cases").mkdir()
        beside = case_script("</script>\u2028", pack(volumes(), GLIOMA))
        (tmp_path / "cases" / "0.js").write_text(beside, "utf-8")
        browser.get(page(tmp_path, SHOW + listen, policy="'self'").as_uri())
        wait(browser, ready)
        assert browser.execute_script("return viewer.caseId") == "</script>\u2028"


@pytest.mark.slow
def test_a_whole_case_is_decoded_within_a_second_and_scrolls_at_60_frames(browser, tmp_path):
    case = volumes((155, 240, 240), spacing_mm=(1.0, 1.0, 1.0))
    browser.get(page(tmp_path, SHOW, case).as_uri())
    wait(browser, ready)
    again = "shown(0).then(() => arguments[0](viewer.decodeMs))"
    # A real case's box around the brain has a third of these voxels, and takes a third of the time.
    assert min(browser.execute_async_script(again) for _ in range(3)) < 3000
    scroll = """
    const canvas = document.querySelectorAll("canvas")[arguments[0]];
    const times = [], done = arguments[1];
    const step = () => {
      times.push(viewer.drawMs);
      if (times.length > 60) return done(times.slice(2));
      canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: times.length % 40 < 20 ? 40 : -40}));
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
    """
    for plane in range(3):
        runs = [browser.execute_async_script(scroll, plane) for _ in range(3)]
        assert min(float(np.median(times)) for times in runs) < 16


def test_labels_have_the_colour_of_what_is_painted_last():
    colours = {each["title"]: each["colour"] for each in pack(volumes(), GLIOMA)["labels"]}
    wt, tc, et = GLIOMA.region_colours.values()
    assert colours == {"Necrotic core": tc, "Oedema": wt, "Enhancing tumour": et}
    labels = pack(volumes(predictions={}, probabilities={}), POST_TREATMENT)["labels"]
    assert len({each["colour"] for each in labels}) == 4


def test_a_case_opens_where_most_tumour_is_else_brain():
    reference = np.zeros(SHAPE, np.uint8)
    reference[5, 7:9, 4] = 1
    reference[5, 7, 4:6] = 1
    assert pack(volumes(reference=reference), GLIOMA)["at"] == [5, 7, 4]
    nothing = volumes(reference=None, predictions={})
    assert pack(nothing, GLIOMA)["at"] == pytest.approx([12, 20, 16], abs=3)

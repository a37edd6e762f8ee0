"""The quality report in a real browser: what a data manager does with it."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsers import column, header, names, opened_browser, requests_of, rows, wait, window
from scipy.ndimage import gaussian_filter
from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from common.task import GLIOMA
from preprocess import quality
from preprocess.quality.rules import Case, Cohort, raise_flags
from preprocess.quality.thumbnail import TILE, thumbnail

pytestmark = pytest.mark.slow

MANY = 2000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with opened_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


@pytest.fixture
def opened(browser: webdriver.Chrome, page_path: Path) -> webdriver.Chrome:
    """The page of the small heads."""
    browser.get(page_path.as_uri())
    return browser


@pytest.fixture(scope="module")
def large_page(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 2,000 cases, each with the text of a small head and a full-sized picture."""
    generator = np.random.default_rng(0)
    z, y, x = np.ogrid[:140, :172, :138]
    brain = ((z - 70) / 66) ** 2 + ((y - 86) / 82) ** 2 + ((x - 69) / 65) ** 2 < 1
    tumour = np.sqrt((z - 90) ** 2 + (y - 60) ** 2 + (x - 45) ** 2)
    label = np.select([tumour < 10, tumour < 17, tumour < 28], [1, 3, 2], 0).astype(np.uint8)
    texture = gaussian_filter(generator.normal(size=brain.shape), 1.2)
    shifted = (np.roll(texture, shift, 1) * brain for shift in range(8))
    pictures = [thumbnail(image[np.newaxis].astype(np.float16), label, GLIOMA) for image in shifted]
    # A real case's picture takes 4.7 to 7.4 kB.
    assert min(map(len, pictures)) > 6000
    cases = [_copy(cohort.cases, index, pictures[index % 8]) for index in range(MANY)]
    many = Cohort(cohort.store, cases, raise_flags(cases), cohort.failures, cohort.missing)
    path = tmp_path_factory.mktemp("large") / "page.html"
    quality.write(many, path)
    return path


def _copy(cases: list[Case], index: int, picture: bytes) -> Case:
    whole = [case for case in cases if case.measures]
    case = whole[index % len(whole)]
    assert case.measures is not None
    mean = {modality: 1000 + index + mean for modality, mean in case.record.mean.items()}
    record = case.record.model_copy(update={"case_id": f"BraTS-GLI-{index:05d}-000", "mean": mean})
    split = ("train", "val", "test")[index % 3] if record.has_label else ""
    return replace(
        case, record=record, split=split, measures=replace(case.measures, thumbnail=picture)
    )


def test_it_opens_without_errors_and_asks_the_network_for_nothing(
    browser: webdriver.Chrome, page_path: Path
) -> None:
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(page_path.as_uri())
    for button in browser.find_elements(By.CSS_SELECTOR, "[data-sort]"):
        button.click()
    rows(browser)[0].click()
    assert requests_of(browser) == {page_path.as_uri()}
    assert browser.get_log("browser") == []


def test_a_hostile_name_is_text(opened: webdriver.Chrome) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    assert hostile in names(opened)
    opened.find_element(By.ID, "find").send_keys("onerror")
    assert names(opened) == [hostile]
    rows(opened)[0].find_element(By.CLASS_NAME, "name").click()
    assert opened.find_element(By.ID, "case-title").text == hostile
    assert "</script><script>alert(1)</script>" in opened.find_element(By.ID, "failures").text
    assert not opened.find_elements(By.CSS_SELECTOR, "img[src=x]")
    with pytest.raises(NoAlertPresentException):
        _ = opened.switch_to.alert.text


def test_columns_sort_both_ways_with_the_empty_last(opened: webdriver.Chrome) -> None:
    header(opened, "ml-wt").click()
    assert (
        header(opened, "ml-wt").find_element(By.XPATH, "..").get_attribute("aria-sort")
        == "ascending"
    )
    volumes = column(opened, 5)
    assert volumes[-1] == "–"
    numbers = [float(text) for text in volumes[:-1]]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 10
    header(opened, "ml-wt").click()
    descending = column(opened, 5)
    assert [float(text) for text in descending[:-1]] == numbers[::-1]
    assert descending[-1] == "–"
    header(opened, "id").click()
    assert names(opened)[1:] == sorted(names(opened)[1:], key=str.casefold)
    assert not header(opened, "ml-wt").find_element(By.XPATH, "..").get_attribute("aria-sort")


def test_filters_leave_what_they_name(opened: webdriver.Chrome) -> None:
    everyone = len(names(opened))
    find = opened.find_element(By.ID, "find")
    find.send_keys("PLAIN-0")
    assert sorted(names(opened)) == [f"plain-{index:02d}" for index in range(10)]
    assert opened.find_element(By.ID, "shown").text == f"10 of {everyone} cases"
    Select(opened.find_element(By.ID, "split")).select_by_visible_text("val")
    assert names(opened) == []
    assert opened.find_element(By.ID, "nothing").is_displayed()
    find.clear()
    find.send_keys(Keys.SPACE)
    assert names(opened) == ["twin"]
    Select(opened.find_element(By.ID, "split")).select_by_visible_text("all")
    Select(opened.find_element(By.ID, "label")).select_by_visible_text("unlabelled")
    assert names(opened) == ["unlabelled"]
    opened.find_element(By.CSS_SELECTOR, ".jump[data-flag=flip]").click()
    assert sorted(names(opened)) == ["mirrored-mask", "mirrored-t2"]


def test_one_case_opens_and_arrows_go_on(opened: webdriver.Chrome) -> None:
    order = names(opened)
    rows(opened)[0].click()
    title = opened.find_element(By.ID, "case-title")
    assert title.text == order[0]
    body = opened.find_element(By.CSS_SELECTOR, "#case .body")
    body.send_keys(Keys.ARROW_RIGHT)
    assert title.text == order[1]
    assert len(opened.find_elements(By.CSS_SELECTOR, "#case .own")) == 4
    assert "SHA-256" in body.text
    body.send_keys(Keys.ESCAPE)
    assert not title.is_displayed()


def test_it_follows_the_readers_light_or_dark(opened: webdriver.Chrome) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        paper = opened.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        seen[scheme] = sum(int(part) for part in paper.strip("rgba()").split(",")[:3]) / 3
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert seen["light"] > 240
    assert seen["dark"] < 40


def test_a_phone_shows_every_value_and_sorts(opened: webdriver.Chrome) -> None:
    with window(opened, 390, mobile=True):
        assert opened.execute_script("return document.documentElement.scrollWidth") == 390
        assert not header(opened, "ml-wt").is_displayed()
        Select(opened.find_element(By.ID, "order")).select_by_visible_text("WT, ml ↓")
        volumes = [float(text) for text in column(opened, 5) if text != "–"]
        assert volumes == sorted(volumes, reverse=True)
        rows(opened)[0].click()
        dialog = opened.find_element(By.ID, "case")
        assert dialog.rect["width"] <= 390
        dialog.find_element(By.CSS_SELECTOR, "[data-close]").click()


@pytest.mark.parametrize("width", [761, 1000, 1200, 1280, 1360, 1600])
def test_nothing_goes_beyond_a_window(width: int, opened: webdriver.Chrome) -> None:
    with window(opened, width):
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        assert header(opened, "flags").is_displayed()


def test_two_thousand_cases(browser: webdriver.Chrome, large_page: Path) -> None:
    assert large_page.stat().st_size < 30e6
    began = time.perf_counter()
    browser.get(large_page.as_uri())
    assert len(names(browser)) == MANY
    assert time.perf_counter() - began < 10
    began = time.perf_counter()
    browser.execute_script("document.querySelector('[data-sort=ml-wt]').click()")
    browser.execute_script(
        "const find = document.getElementById('find'); find.value = '00199';"
        "find.dispatchEvent(new Event('input'))"
    )
    assert names(browser) == ["BraTS-GLI-00199-000"]
    assert time.perf_counter() - began < 5


def test_pictures_load_when_they_come_near(browser: webdriver.Chrome, large_page: Path) -> None:
    browser.get(large_page.as_uri())
    loaded = "return document.querySelectorAll('#table img').length"
    assert browser.execute_script(loaded) < 40
    script = "const all = document.querySelectorAll('#table tbody tr'); return all[all.length - 1]"
    last = browser.execute_script(script)
    assert not last.find_elements(By.TAG_NAME, "img")
    browser.execute_script("arguments[0].scrollIntoView()", last)
    wait(browser, lambda _: last.find_elements(By.TAG_NAME, "img"))
    image = last.find_element(By.TAG_NAME, "img")
    wait(browser, lambda _: image.get_property("naturalWidth") == 3 * TILE)
    assert browser.execute_script(loaded) < 200

"""The run report in a real browser: what a group around one screen does with it."""

import base64
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import column, header, names, opened_browser, requests_of, rows, wait, window
from cli import invoke
from runs import validated
from selenium import webdriver
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from common.store import Store
from train.cli import app
from train.report.serve import open_server

pytestmark = pytest.mark.slow

IDS = [f"BraTS2021_{index:05d}" for index in range(4)]
HOSTILE = "<img src=x onerror=alert(1)> $x$"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with opened_browser(tmp_path_factory.mktemp("profile")) as chrome:
        yield chrome


def page_of(folder: Path, *runs: Path) -> Path:
    page = folder / "page.html"
    done = invoke(app, "report", *runs, "--out", page)
    assert done.returncode == 0, done.stderr
    return page


@pytest.fixture(scope="module")
def one_page(one_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("one"), one_run)


@pytest.fixture(scope="module")
def two_page(two_runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(tmp_path_factory.mktemp("two"), *two_runs)


@pytest.fixture
def opened(browser: webdriver.Chrome, one_page: Path) -> webdriver.Chrome:
    browser.get(one_page.as_uri())
    return browser


def sorted_by(browser: webdriver.Chrome, key: str) -> str | None:
    return header(browser, key).find_element(By.XPATH, "..").get_attribute("aria-sort")


def test_it_opens_without_errors_and_asks_the_network_for_nothing(
    browser: webdriver.Chrome, two_page: Path
) -> None:
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(two_page.as_uri())
    for button in browser.find_elements(By.CSS_SELECTOR, "[data-sort]"):
        button.click()
    rows(browser)[0].click()
    assert requests_of(browser) == {two_page.as_uri()}
    assert browser.get_log("browser") == []


def test_the_worst_come_first_and_columns_sort_both_ways(opened: webdriver.Chrome) -> None:
    assert sorted_by(opened, "dice-0-mean") == "ascending"
    means = [float(text) for text in column(opened, 3)]
    assert means == sorted(means)
    header(opened, "dice-0-mean").click()
    assert [float(text) for text in column(opened, 3)] == means[::-1]
    header(opened, "findings").click()
    assert sorted_by(opened, "findings") == "descending"
    assert set(names(opened)[:2]) == {"missed", "false-alarm"}


def test_filters_leave_what_they_name(opened: webdriver.Chrome) -> None:
    everyone = len(names(opened))
    opened.find_element(By.ID, "find").send_keys("PLAIN-0")
    assert len(names(opened)) == 9
    assert opened.find_element(By.ID, "shown").text == f"9 of {everyone} cases"
    opened.find_element(By.ID, "find").clear()
    opened.find_element(By.ID, "find").send_keys(Keys.SPACE)
    Select(opened.find_element(By.ID, "region")).select_by_visible_text("ET")
    assert sorted_by(opened, "dice-0-et") == "ascending"
    assert {"empty", "false-alarm"}.isdisjoint(names(opened))
    scores = [float(text) for text in column(opened, 6)]
    assert scores == sorted(scores)


def test_a_number_of_misses_shows_their_cases(opened: webdriver.Chrome) -> None:
    button = opened.find_element(By.CSS_SELECTOR, '[data-finding="0 tc missed"]')
    button.click()
    assert len(names(opened)) == int(button.text)
    assert "missed" in names(opened)


def test_a_case_opens_from_its_row_and_its_point_and_arrows_go_on(
    opened: webdriver.Chrome,
) -> None:
    order = names(opened)
    rows(opened)[0].click()
    title = opened.find_element(By.ID, "case-title")
    assert title.text == order[0]
    body = opened.find_element(By.CSS_SELECTOR, "#case .body")
    body.send_keys(Keys.ARROW_RIGHT)
    assert title.text == order[1]
    assert len(body.find_elements(By.CSS_SELECTOR, "tbody tr")) == 3
    body.send_keys(Keys.ESCAPE)
    assert not title.is_displayed()
    point = opened.find_element(By.CSS_SELECTOR, "#volumes circle:last-of-type")
    opened.execute_script("arguments[0].dispatchEvent(new Event('click'))", point)
    name = point.find_element(By.TAG_NAME, "title").get_attribute("textContent")
    assert name.startswith(title.text + ":")


def test_hostile_text_is_text(opened: webdriver.Chrome) -> None:
    opened.find_element(By.ID, "find").send_keys("onerror")
    assert names(opened) == [HOSTILE]
    rows(opened)[0].click()
    assert opened.find_element(By.ID, "case-title").text == HOSTILE
    assert "</script><b>of others</b>" in opened.find_element(By.CLASS_NAME, "notes").text
    assert "</script><script>alert(1)</script>" in opened.find_element(By.ID, "settings").text
    assert not opened.find_elements(By.TAG_NAME, "img")
    with pytest.raises(NoAlertPresentException):
        _ = opened.switch_to.alert.text


@pytest.mark.parametrize("width", [390, 761, 1000, 1200, 1360, 1600])
def test_nothing_goes_beyond_a_window(
    width: int, browser: webdriver.Chrome, two_page: Path
) -> None:
    with window(browser, width, mobile=width < 500):
        browser.get(two_page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        assert rows(browser)[0].find_element(By.CLASS_NAME, "name").is_displayed()


def test_a_phone_shows_every_value_and_sorts(browser: webdriver.Chrome, two_page: Path) -> None:
    with window(browser, 390, mobile=True):
        browser.get(two_page.as_uri())
        order = Select(browser.find_element(By.ID, "order"))
        order.select_by_visible_text("high: mean Dice ↓")
        shown = [text for text in column(browser, 7) if text != "–"]
        assert shown == sorted(shown, reverse=True)
        assert len(shown) == len(names(browser)) - 1
        assert rows(browser)[0].find_elements(By.TAG_NAME, "td")[7].is_displayed()


def test_it_follows_light_and_dark_and_prints(opened: webdriver.Chrome) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        paper = opened.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        seen[scheme] = sum(int(part) for part in paper.strip("rgba()").split(",")[:3]) / 3
    assert seen["light"] > 240
    assert seen["dark"] < 40
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert not opened.find_element(By.CLASS_NAME, "controls").is_displayed()
    assert len(rows(opened)) == len(names(opened)) > 10
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    pdf = base64.b64decode(opened.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert 2 <= pdf.count(b"/Type /Page\n") <= 12


@pytest.fixture(scope="module")
def scored_run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that really predicts its two test cases; one of them is in its page."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    splits = {"train": IDS[:1], "val": IDS[1:2], "test": IDS[2:]}
    validated(store, folder, f"splits={json.dumps({'kind': 'lists', **splits})}")
    assert invoke(app, "evaluate", folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def slices_page(scored_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train.report.INSIDE", 1)
        return page_of(tmp_path_factory.mktemp("slices"), scored_run)


def open_case(browser: webdriver.Chrome, row: int) -> None:
    rows(browser)[row].find_element(By.CLASS_NAME, "name").click()


def shown_slices(browser: webdriver.Chrome) -> list[WebElement]:
    found = browser.find_elements(By.CSS_SELECTOR, "#case canvas")
    return [canvas for canvas in found if canvas.is_displayed()]


def test_slices_are_shown_and_their_keys_do_not_change_the_case(
    browser: webdriver.Chrome, slices_page: Path
) -> None:
    browser.get_log("browser")
    browser.get(slices_page.as_uri())
    open_case(browser, 0)
    wait(browser, lambda _: len(shown_slices(browser)) == 3)
    title, viewer = (browser.find_element(By.CSS_SELECTOR, s) for s in ("#case-title", ".viewer"))
    case, place = title.text, viewer.text
    viewer.send_keys(Keys.PAGE_UP, Keys.ARROW_RIGHT)
    wait(browser, lambda _: viewer.text != place)
    assert title.text == case
    overlays = {option.text for option in viewer.find_elements(By.TAG_NAME, "option")}
    assert {"reference", "prediction run", "difference run"} <= overlays
    assert any("run, head 1" in overlay for overlay in overlays)
    assert browser.get_log("browser") == []


def test_a_case_beside_the_page_is_loaded_from_there(
    browser: webdriver.Chrome, slices_page: Path
) -> None:
    browser.get(slices_page.as_uri())
    open_case(browser, 1)
    wait(browser, lambda _: len(shown_slices(browser)) == 3)


def test_a_case_beside_a_served_page_is_loaded_too(
    browser: webdriver.Chrome, slices_page: Path
) -> None:
    with open_server(slices_page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        browser.get(f"http://127.0.0.1:{server.server_port}/{slices_page.name}")
        open_case(browser, 1)
        wait(browser, lambda _: len(shown_slices(browser)) == 3)
        server.shutdown()
        thread.join()


def test_a_page_without_its_folder_says_what_is_missing(
    browser: webdriver.Chrome, slices_page: Path, tmp_path: Path
) -> None:
    alone = tmp_path / slices_page.name
    shutil.copy(slices_page, alone)
    browser.get(alone.as_uri())
    open_case(browser, 1)
    slices = browser.find_element(By.CLASS_NAME, "slices")
    wait(browser, lambda _: "page-cases/0.js" in slices.text)
    assert not shown_slices(browser)
    browser.find_element(By.CSS_SELECTOR, '#case [data-step="-1"]').click()
    wait(browser, lambda _: len(shown_slices(browser)) == 3)

"""A real browser for the tests of pages, and what they look for in a page's table of cases."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,1000",
)
TEXTS = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
SHOWN = "#table tbody tr:not([hidden])"


@contextmanager
def opened_browser(profile: Path) -> Iterator[webdriver.Chrome]:
    """Chromium, with a profile in this folder; the test is skipped where there is none."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = Options()
    options.binary_location = program
    for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options, Service(driver)) as chrome:
        yield chrome


@contextmanager
def window(browser: webdriver.Chrome, width: int, *, mobile: bool = False) -> Iterator[None]:
    """A window of this width."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": mobile}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def requests_of(browser: webdriver.Chrome) -> set[str]:
    """Addresses that it has asked for since its log was read, without those that hold the data."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = (
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    )
    return {url for url in asked if not url.startswith("data:")}


def rows(browser: webdriver.Chrome) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, SHOWN)


def names(browser: webdriver.Chrome) -> list[str]:
    found: list[str] = browser.execute_script(TEXTS, f"{SHOWN} .name")
    return found


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    found: list[str] = browser.execute_script(TEXTS, f"{SHOWN} td:nth-child({number})")
    return found


def header(browser: webdriver.Chrome, key: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, f"#table [data-sort={key}]")


def wait(browser: webdriver.Chrome, until: Callable[[webdriver.Chrome], object]) -> None:
    WebDriverWait(browser, 10).until(until)

"""The page of a full ImageNet-1k run in a real browser: it opens without complaint or request, sorts, searches and prints."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_selenium_python import Axe  # type: ignore[import-untyped]
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from jobs.reporting.write import write_reports
from tests.jobs.prediction_files import chunk, metadata, write_file, write_manifest
from tests.jobs.reporting.conftest import a_run

pytestmark = pytest.mark.slow

QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
WIDTHS = {"a phone": 390, "a laptop": 1280}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50,000 predictions of 1,000 classes by four meshes, reported."""
    out = tmp_path_factory.mktemp("validation")
    rng = np.random.default_rng(0)
    for k in range(100):
        mesh, turn = k % 4, k // 4
        rows = chunk(rng, 500, 1000, 64, 0.2 * turn, 0.023, first_batch=8 * turn)
        write_file(out, f"{k % 4}/{k}.parquet", rows, metadata(f"loudbox-{mesh + 1}/0-3", batch_size=64))
    fault = {"at": 1740830401.0, "kind": "restart", "where": "loudbox-2/0-3", "what": "the actor on this mesh was replaced"}
    attempt = {"attempt": 1, "started_at": "", "ended_at": "", "state": "finished", "restarts": 1, "events": [fault]}
    write_manifest(out, images=50_000, class_names=[f"class {i}" for i in range(1000)], attempts=[attempt])
    write_reports(str(out))
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, out: Path) -> Iterator[webdriver.Chrome]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.fail("this test needs a browser: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    with webdriver.Chrome(options, Service(driver)) as found:
        found.get((out / "report.html").as_uri())
        yield found


def screenshot(browser: webdriver.Chrome, width: int, scheme: str) -> np.ndarray:
    """The window as the colour scheme paints it; uint8 (height, width, 3)."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as image:
        return np.asarray(image.convert("RGB"))


def table_of_classes(browser: webdriver.Chrome) -> list[list[str]]:
    """The rows to be seen."""
    return browser.execute_script(
        """return [...document.querySelector("table.sortable").tBodies[0].rows]
             .filter((row) => !row.hidden).map((row) => [...row.cells].map((cell) => cell.textContent))"""
    )


def test_it_opens_without_a_complaint_and_asks_for_nothing(browser: webdriver.Chrome) -> None:
    assert browser.execute_script("return document.querySelectorAll('.plot').length") == 6
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [each["params"] for each in events if each["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in requests if each["documentURL"] == browser.current_url]
    assert [url for url in asked if not url.startswith("data:")] == [browser.current_url]


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_is_light_or_dark_as_the_reader_likes_and_never_wider_than_the_window(browser: webdriver.Chrome, width: int) -> None:
    light, dark = (screenshot(browser, width, scheme) for scheme in ("light", "dark"))
    assert light.shape == dark.shape == (900, width, 3)
    assert np.median(light) > 230
    assert np.median(dark) < 50
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_classes_are_found_and_sorted(browser: webdriver.Chrome) -> None:
    def click(heading: str) -> None:
        (button,) = [each for each in browser.find_elements(By.CSS_SELECTOR, "th button") if each.text == heading]
        button.click()

    assert len(table_of_classes(browser)) == 1000
    field = browser.find_element(By.CSS_SELECTOR, ".search input")
    field.send_keys("class 99")
    # Class 99 and 990 to 999, and those most often taken for one of them.
    found = table_of_classes(browser)
    assert {row[1] for row in found if row[1].startswith("class 99")} == {"class 99", *(f"class 99{i}" for i in range(10))}
    assert all("class 99" in row[1] + row[7] for row in found)
    assert browser.find_element(By.CSS_SELECTOR, ".search output").text == f"{len(found)} of 1,000 rows"

    field.clear()
    field.send_keys(" ")
    click("Name")
    assert [row[1] for row in table_of_classes(browser)] == [f"class {i}" for i in range(1000)]
    click("Images")
    click("Images")
    images = [int(row[5]) for row in table_of_classes(browser)]
    assert images == sorted(images, reverse=True)
    assert sum(images) == 50_000


def test_it_prints_every_class(browser: webdriver.Chrome) -> None:
    on_screen = browser.execute_script("return document.documentElement.scrollHeight")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    on_paper = browser.execute_script("return document.documentElement.scrollHeight")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert on_paper > on_screen + 10_000  # the frame that scrolls is gone
    assert base64.b64decode(browser.print_page()).startswith(b"%PDF")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_axe_finds_nothing_that_shuts_anybody_out(browser: webdriver.Chrome, tmp_path: Path, width: int, scheme: str) -> None:
    """Of a page with few classes, since axe takes minutes for thousands of cells."""
    a_run(tmp_path)
    write_reports(str(tmp_path))
    browser.get((tmp_path / "report.html").as_uri())
    screenshot(browser, width, scheme)
    axe = Axe(browser)
    axe.inject()
    found = axe.run()
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []
    assert len(found["passes"]) > 20

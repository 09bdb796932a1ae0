"""Reports in a browser: nothing fails, nothing is loaded, and keys do what the mouse does."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from graph_init import report
from tests import report_cases
from tests.browser import Browser

pytest.importorskip("jinja2")
pytest.importorskip("vl_convert")

NAMES = [f"layer{k}" for k in range(10)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("saved"))
    yield found
    found.driver.quit()


@pytest.fixture(autouse=True)
def in_order(browser: Browser) -> Iterator[None]:
    """Whatever a test does, the console stays empty and nothing is loaded from elsewhere."""
    browser.appear("light")
    browser.complaints()
    browser.requests()
    yield
    assert browser.complaints() == []
    asked = browser.requests()
    assert asked and all(a.startswith(("file:", "data:", "blob:", "about:")) for a in asked)


@pytest.fixture(scope="module")
def content() -> report_cases.Content:
    return report_cases.initialized(NAMES, tuner="metainit", steps=20)


@pytest.fixture(scope="module")
def pages(
    content: report_cases.Content, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {kind: folder / f"{kind}.html" for kind in ("initialize", "check", "compare", "zoo")}
    report.write(content, found["initialize"])
    report.write(report_cases.checked(NAMES), found["check"])
    report.write(report_cases.compared(NAMES[:3]), found["compare"])
    report.write_zoo(*report_cases.zoo(40, content, report_cases.HOSTILE), found["zoo"], "Models")
    return found


def place(browser: Browser, key: str) -> int:
    """Which column of the overview has this key, from 1."""
    keys = "return [...document.querySelectorAll('#models thead th')].map((h) => h.dataset.key)"
    return int(browser.run(keys).index(key)) + 1


def column(browser: Browser, key: str) -> list[str]:
    """Texts of the overview's rows that are shown."""
    number = place(browser, key)
    return browser.texts(f"#models tbody tr:not([hidden]) > :nth-child({number})")


@pytest.mark.parametrize("kind", ["initialize", "check", "compare", "zoo"])
def test_charts_are_drawn_and_have_names(
    kind: str, browser: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    browser.open(pages[kind])
    figures = browser.run("return document.querySelectorAll('figure.chart').length")
    labels = browser.run(
        "return [...document.querySelectorAll('figure.chart svg[role=img]')]"
        ".map((s) => s.getAttribute('aria-label'))"
    )
    assert figures == len(labels) > 0 and all(labels)
    # Every chart has marks, and a table of its numbers.
    marks = browser.run(
        "return [...document.querySelectorAll('figure.chart')].map((f) => ["
        "f.querySelectorAll('.mark-rect path, .mark-line path, .mark-symbol path, .mark-rule line')"
        ".length, document.getElementById(f.dataset.table).tBodies[0].rows.length])"
    )
    assert all(drawn and rows for drawn, rows in marks)
    assert len(
        set(browser.run("return [...document.querySelectorAll('[id]')].map(e => e.id)"))
    ) == browser.run("return document.querySelectorAll('[id]').length")
    from PIL import Image

    seen = {}
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 380)):
        browser.appear(scheme, width)
        path = tmp_path / f"{scheme}-{width}.png"
        browser.picture(path)
        image = np.asarray(Image.open(path).convert("L"))
        seen[scheme, width] = float(np.median(image))
        assert image.std() > 5
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    assert seen["dark", 1280] < 60 < 200 < seen["light", 1280]
    assert len(browser.printed()) > 10_000


def test_columns_are_sorted_by_mouse_and_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["zoo"])
    head = "#models thead [data-key=gradient_deviation_before]"

    def values() -> list[float | None]:
        found = browser.run(
            "return [...document.querySelectorAll('#models tbody tr > :nth-child('"
            " + arguments[0] + ')')].map((c) => c.dataset.v)",
            place(browser, "gradient_deviation_before"),
        )
        return [float(v) if v else None for v in found]

    numbers = sorted(v for v in values() if v is not None)
    blanks = [None] * (len(values()) - len(numbers))
    assert blanks and browser.element(head).get_attribute("aria-sort") is None
    browser.element(head + " button").click()
    assert values() == [*numbers, *blanks]
    assert browser.element(head).get_attribute("aria-sort") == "ascending"
    browser.press(Keys.ENTER)
    assert values() == [*numbers[::-1], *blanks]
    assert browser.element(head).get_attribute("aria-sort") == "descending"
    browser.press(Keys.TAB, Keys.SPACE)
    assert browser.element(head).get_attribute("aria-sort") is None
    assert browser.element("#models thead [data-key=gradient_deviation_after]").get_attribute(
        "aria-sort"
    )
    browser.element("#models thead th:nth-child(1) button").click()
    names = column(browser, "name")
    assert names.index("family0/model-3.onnx") < names.index("family0/model-12.onnx")


def test_rows_are_filtered(browser: Browser, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    browser.open(pages["zoo"])
    count = "#overview [data-for=models] output"
    browser.element("#overview [data-for=models] input").click()
    browser.press("FAMILY1")
    assert all(n.startswith("family1/") for n in column(browser, "name"))
    assert browser.texts(count) == ["13 of 48 rows"]
    Select(browser.element("select[name=status]")).select_by_visible_text("failed")
    assert set(column(browser, "status")) == {"failed"}
    browser.element("select[name=reason]").send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    shown = column(browser, "reason")
    assert len(set(shown)) == 1 and shown[0].startswith("ModelFileError")
    name, text = browser.saved(browser.element("#overview [data-for=models] button").click)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert name == "Models_graph-init-models.csv"
    assert [row["name"] for row in rows] == column(browser, "name")
    assert {row["status"] for row in rows} == {"failed"}


def test_every_model_has_a_page(
    browser: Browser, pages: dict[str, Path], content: report_cases.Content
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["zoo"])
    link = browser.element("#models tbody tr:nth-child(2) a")
    name = link.text
    link.send_keys(Keys.ENTER)
    browser.until(lambda: browser.texts("#route h1") == [name])
    assert not browser.element("#overview").is_displayed()
    assert browser.run("return document.activeElement.tagName") == "H1"
    assert browser.driver.title == f"{name} – graph-init"
    browser.until(
        lambda: browser.run(
            "return document.querySelectorAll('#route figure svg[role=img]').length"
            " === document.querySelectorAll('#route figure').length"
        )
    )
    _, text = browser.saved(browser.element("#saves button").click)
    scales = json.loads(text)["result"]["scales"]
    assert scales == pytest.approx(content["result"]["scales"], rel=1e-6)
    browser.element("#route .contents a[href$='?graph']").click()
    assert browser.run("return document.getElementById('graph').getBoundingClientRect().top") < 450
    browser.driver.back()
    browser.driver.back()
    browser.until(lambda: browser.element("#overview").is_displayed())
    assert browser.run("return document.activeElement.textContent") == name
    browser.driver.forward()
    browser.until(lambda: browser.texts("#route h1") == [name])
    # By its address, and one that is none.
    browser.open(pages["zoo"], "#/family2%2Fmodel-2.onnx?scales")
    browser.until(lambda: browser.texts("#route h1") == ["family2/model-2.onnx"])
    browser.open(pages["zoo"], "#/none")
    browser.until(lambda: browser.texts("#route h1") == ["There is no such page"])
    browser.element("#route a").click()
    browser.until(lambda: browser.element("#overview").is_displayed())


def test_hostile_names_do_no_harm(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    browser.open(pages["zoo"])
    for number in range(len(report_cases.HOSTILE)):
        links = browser.run(
            "return [...document.querySelectorAll('#models tbody tr:not([hidden]) a')].slice(-8)"
        )
        name = links[number].text
        browser.run("location.hash = arguments[0].hash", links[number])
        browser.until(lambda name=name: browser.texts("#route h1") == [name])
        browser.run("location.hash = ''")
        browser.until(lambda: browser.element("#overview").is_displayed())
    target = tmp_path / "hostile.html"
    report.write(
        report_cases.initialized(list(report_cases.HOSTILE), report_cases.HOSTILE[0]), target
    )
    browser.open(target)
    assert browser.run("return window.pwned") is None
    assert browser.run("return document.querySelectorAll('img, main svg svg').length") == 0
    browser.element("#scales summary").click()
    _, text = browser.saved(browser.element("[data-for=tensors] button").click)
    names = [row["name"] for row in csv.DictReader(io.StringIO(text))]
    assert names[0] == report_cases.HOSTILE[0]
    # A spreadsheet would compute it.
    assert "'" + report_cases.HOSTILE[4] in names


def test_numbers_are_reached_and_saved_by_keyboard(
    browser: Browser, pages: dict[str, Path], content: report_cases.Content
) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(pages["initialize"])
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    browser.press(Keys.ENTER)
    assert browser.run("return document.activeElement.id") == "main"
    stops = []
    for _ in range(60):
        browser.press(Keys.TAB)
        stops.append(
            browser.run(
                "const e = document.activeElement;"
                "return [e.tagName, e.getAttribute('aria-label') || e.textContent.slice(0, 40)]"
            )
        )
        if stops[-1][1].startswith("Numbers: Steps"):
            break
    assert ["A", "Scales"] in stops
    assert stops[-1][0] == "SUMMARY"
    browser.press(Keys.ENTER)
    assert browser.element("#history").is_displayed()
    browser.press(Keys.TAB, Keys.TAB)
    assert browser.run("return document.activeElement.textContent") == "Save as CSV"
    _, text = browser.saved(lambda: browser.press(Keys.ENTER))
    rows = list(csv.DictReader(io.StringIO(text)))
    history = content["result"]["history"]
    assert [float(r["gradient_deviation"]) for r in rows] == pytest.approx(
        [h["gradient_deviation"] for h in history], rel=1e-6
    )
    _, text = browser.saved(browser.element("#saves button").click)
    assert json.loads(text) == json.loads(json.dumps(content))


@pytest.mark.long
def test_a_thousand_models_stay_usable(
    browser: Browser, content: report_cases.Content, tmp_path: Path
) -> None:
    target = tmp_path / "many.html"
    report.write_zoo(*report_cases.zoo(1000, content), target)
    browser.open(target)
    assert len(column(browser, "name")) == 1000
    browser.element("#models thead [data-key=seconds] button").click()
    browser.element("#overview [data-for=models] input").send_keys("model-998")
    assert len(column(browser, "name")) == 1
    browser.element("#models tbody tr:not([hidden]) a").click()
    browser.until(lambda: browser.texts("#route h1") == ["family2/model-998.onnx"])

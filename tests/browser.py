"""Chromium without a window, for tests of pages: what it logs, loads and saves."""

from __future__ import annotations

import base64
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: Set by what has installed a browser: then its absence is a failure.
REQUIRED = "GRAPH_INIT_REQUIRE_BROWSER"


def find_browser() -> tuple[str, str]:
    """Paths of Chromium and its driver; skips the test, or fails it if one is required."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        words = "no chromium and chromedriver on this machine: apt-get install chromium-driver"
        if os.environ.get(REQUIRED):
            pytest.fail(words)
        pytest.skip(words)
    return browser, driver


class Browser:
    """A browser that saves into ``folder``."""

    def __init__(self, folder: Path, seconds: float = 30.0) -> None:
        """``seconds``: how long is waited for what a page does."""
        self._seconds = seconds
        webdriver = pytest.importorskip("selenium.webdriver")
        from selenium.webdriver.chrome.options import Options
        from selenium.webdriver.chrome.service import Service

        path, driver = find_browser()
        options = Options()
        options.binary_location = path
        # Without a sandbox, since tests may be run by root.
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.add_argument("--window-size=1280,900")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver: Any = webdriver.Chrome(options=options, service=Service(driver))
        self.folder = folder
        self.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def devtools(self, command: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)

    def open(self, page: Path, fragment: str = "") -> None:
        """Show a page, and wait until its charts are drawn."""
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + fragment)
        self.until(lambda: self.run("return document.documentElement.dataset.ready === 'yes'"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def until(self, test: Callable[[], Any]) -> Any:
        end = time.monotonic() + self._seconds
        while not (found := test()):
            assert time.monotonic() < end, "the page does not get there"
            time.sleep(0.05)
        return found

    def press(self, *keys: str) -> None:
        """Keys, for whichever element has the focus."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def element(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return list(
            self.run(
                "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)",
                selector,
            )
        )

    def saved(self, press: Callable[[], None]) -> tuple[str, str]:
        """Name and text of the file that the page saves."""
        before = set(self.folder.iterdir())
        press()

        def done() -> list[Path]:
            new = [p for p in self.folder.iterdir() if p not in before]
            return [p for p in new if p.suffix != ".crdownload" and not p.name.startswith(".")]

        (path,) = self.until(done)
        with path.open(encoding="utf-8", newline="") as stream:
            return path.name, stream.read()

    def complaints(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that were asked for since this was last called."""
        messages = (
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        )
        return [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]

    def appear(self, scheme: str, width: int = 1280) -> None:
        self.devtools(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        height = min(8000, self.run("return document.documentElement.scrollHeight"))
        width = self.run("return innerWidth")
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        found = self.devtools("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    def printed(self) -> bytes:
        """The page as PDF."""
        found = self.devtools("Page.printToPDF", preferCSSPageSize=True)
        return base64.b64decode(found["data"])

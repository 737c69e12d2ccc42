"""Page of the report in Chromium, if installed: no errors, all images, no overflow."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time

import pytest
from support import HANG_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BINARY = next((path for name in NAMES if (path := shutil.which(name))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)

pytestmark = pytest.mark.skipif(BINARY is None, reason="no Chromium on this machine")


class Browser:
    """Chromium, controlled over its debugging pipe by JSON messages that end in a zero byte."""

    def __init__(self, profile):
        to_read, self._to_write = os.pipe()
        self._from_read, from_write = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        wiring = f'exec 3<&{to_read} 4>&{from_write}; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", wiring, BINARY, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        self._buffer = b""
        self._number = 0
        self.events = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    _session = None

    def ask(self, method, **parameters):
        """Send a command and return its result; events received before it are stored."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait_for(self, method):
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._receive())

    def value(self, expression):
        """Return the value of a JavaScript expression in the page."""
        reply = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def _receive(self):
        deadline = time.monotonic() + HANG_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from_read], [], [], deadline - time.monotonic())
            assert ready, "the browser is silent"
            more = os.read(self._from_read, 2**16)
            assert more, "the browser ended"
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def close(self):
        with contextlib.suppress(OSError, AssertionError):
            self._session = None
            self.ask("Browser.close")
        for descriptor in (self._to_write, self._from_read):
            os.close(descriptor)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def browser(page, tmp_path_factory):
    """Browser that has loaded the page."""
    opened = Browser(tmp_path_factory.mktemp("profile"))
    try:
        opened.ask("Page.navigate", url=page.as_uri())
        opened.wait_for("Page.loadEventFired")
        yield opened
    finally:
        opened.close()


def test_page_logs_nothing_to_the_console(browser):
    loud = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [event for event in browser.events if event.get("method") in loud] == []


def test_page_requests_nothing_from_the_network(browser):
    requested = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert requested, "the request of the page itself is missing"
    assert {url.split(":")[0] for url in requested} <= {"file", "data"}


def test_every_image_of_the_page_is_displayed(browser, page):
    images = browser.value(
        "Array.from(document.images, i => [i.complete, i.naturalWidth, i.clientWidth])"
    )
    assert len(images) == page.read_text(encoding="utf-8").count("<img")
    for complete, natural, displayed in images:
        assert complete
        assert natural > 500
        assert displayed > 100


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_page_fits_the_screen(browser, width):
    browser.ask(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=800,
        deviceScaleFactor=1,
        mobile=width < 500,
    )
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    boxes = browser.value(
        "Array.from(document.images, i => [i.clientWidth, i.parentElement.clientWidth,"
        " i.naturalWidth])"
    )
    for image, box, natural in boxes:
        assert box <= width
        # 8 points of print are 8 pixels or more: 300 pixels an inch hold 96 of the screen.
        assert image >= min(0.9 * box, natural * 96 / 300)


def test_page_can_be_printed(browser):
    browser.ask("Emulation.clearDeviceMetricsOverride")
    pdf = base64.b64decode(browser.ask("Page.printToPDF", printBackground=True)["data"])
    assert pdf.startswith(b"%PDF")
    browser.ask("Emulation.setEmulatedMedia", media="print")
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"

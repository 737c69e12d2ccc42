"""Chromium without a window, controlled over its debugging pipe."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import time

from support import HANG_S

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BINARY = next((path for name in NAMES if (path := shutil.which(name))), None)
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)


# Longest wait for a script of the page; generous, since the machine may be shared.
WAIT_S = 60


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

    def open(self, page):
        """Load a page; the events of earlier pages are dropped."""
        self.events.clear()
        self.ask("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def requested(self):
        """Return the URLs that the page has requested, itself included."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def until(self, condition):
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + WAIT_S
        while not self.value(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.02)

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

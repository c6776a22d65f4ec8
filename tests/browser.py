"""A real browser for tests: Chromium without a window, driven over a pair of pipes.

The DevTools protocol over pipes (``--remote-debugging-pipe``) is JSON between NUL bytes, so that no
package is needed. https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-extensions", "--remote-debugging-pipe"),
)

# The browser reads from descriptor 3 and writes to 4.
_LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for place, end in zip((3, 4), ends):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """The browser's program, if this machine has one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One browser with one page; a context manager.

    Attributes:
        messages: Console messages, errors and violations of the page so far.
        requests: Addresses that the page asked for so far.
    """

    def __init__(self, program: str, folder: Path, timeout: float = 60.0) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.downloads = folder / "downloads"
        self._timeout, self._number, self._buffer = timeout, 0, b""
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[str] = []
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [program, *_SWITCHES, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, str(theirs_in), str(theirs_out), *command],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._session = ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        found = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call(
            "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads)
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        os.close(self._in)
        os.close(self._out)

    def size(self, width: int, height: int = 900, dark: bool = False) -> None:
        """The window's size, and the reader's colour scheme."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Load a page and wait until it is there; what was noted of another is dropped."""
        for place in ("about:blank", address):  # another fragment alone would load nothing
            self.messages.clear()
            self.requests.clear()
            self._events.clear()
            self._call("Page.navigate", url=place)
            self._wait(lambda: "Page.loadEventFired" in self._events)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def accessible(self) -> list[tuple[str, str, int | None]]:
        """What assistive technology is told: role, name and heading level, in reading order."""
        self._call("Accessibility.enable")
        found = []
        for node in self._call("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                levels = [p for p in node.get("properties", []) if p["name"] == "level"]
                name = node.get("name", {}).get("value", "")
                level = levels[0]["value"]["value"] if levels else None
                found.append((node["role"]["value"], name.strip(), level))
        return found

    def click(self, selector: str) -> None:
        """Click in the middle of an element."""
        x, y = self._place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._mouse(kind, x, y, button="left", clickCount=1)

    def settle(self) -> None:
        """Let the page handle what happened to it."""
        self.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")

    def hover(self, selector: str) -> None:
        """Point at an element."""
        self._mouse("mouseMoved", *self._place(selector))

    def press(self, key: str) -> None:
        """Press a key such as ``Tab``, ``Enter`` or ``ArrowRight``."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowRight": 39, "End": 35}
        more = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent",
                **{"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key]},
                **(more if kind == "keyDown" else {}),
            )

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self._call("Input.insertText", text=text)

    def downloaded(self, name: str) -> str:
        """The text of a file that the page saved."""
        file = self.downloads / name
        # Chromium keeps the name free with an empty file, and puts the whole one in its place.
        self._wait(lambda: file.is_file() and file.stat().st_size > 0)
        return file.read_text(encoding="utf-8")

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """A PNG of the whole page, or of what is in view."""
        found = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))

    def _place(self, selector: str) -> tuple[float, float]:
        place = self.run(
            f"""(() => {{
              const found = document.querySelector({json.dumps(selector)});
              found.scrollIntoView({{ block: "center", behavior: "instant" }});
              const box = found.getBoundingClientRect();
              return [box.left + box.width / 2, box.top + box.height / 2];
            }})()"""
        )
        return place[0], place[1]

    def _mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        self._wait(lambda: number in self._answers)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def _wait(self, done: Any) -> None:
        end = time.monotonic() + self._timeout
        while not done():
            assert self._process.poll() is None, "the browser ended"
            assert time.monotonic() < end, "the browser did not answer in time"
            if not select.select([self._in], [], [], 0.1)[0]:
                continue
            *whole, self._buffer = (self._buffer + os.read(self._in, 1 << 20)).split(b"\0")
            for part in whole:
                self._note(json.loads(part))

    def _note(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, found = message["method"], message["params"]
        self._events.append(method)
        if method == "Runtime.consoleAPICalled":
            self.messages += [str(item.get("value")) for item in found["args"]]
        elif method == "Runtime.exceptionThrown":
            self.messages.append(json.dumps(found["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.messages.append(found["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(found["request"]["url"][:200])

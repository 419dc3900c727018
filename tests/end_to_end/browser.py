"""A real browser: Chromium without a window, spoken to in its own protocol over a pair of pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = "chromium-headless-shell"
"""Of the Debian package of that name."""
_FLAGS = ("--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe")


class Browser:
    """One browser with one page open."""

    def __init__(self, profile: Path) -> None:
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs, ours)]

        def place() -> None:  # the protocol's numbers: 3 to read from, 4 to write to
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [PROGRAM, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(3, 4),
            preexec_fn=place,
            stderr=subprocess.DEVNULL,
        )
        for end in high:
            os.close(end)
        os.close(theirs)
        os.close(ours)
        self._buffer, self._number, self._session = b"", 0, ""
        self.complaints: list[str] = []
        """What the page wrote to the console, and what the browser logged of it."""
        self.requests: list[str] = []
        """Addresses that it asked for."""
        self.loaded: list[str] = []
        """Those of them that it got something from."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call `method` and wait for its answer."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result = answer["result"]
                assert isinstance(result, dict)
                return result

    def open(self, page: Path, scripts: bool = True) -> None:
        self.complaints.clear()
        self.requests.clear()
        self.loaded.clear()
        self.ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.ask("Page.navigate", url=page.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script: str) -> Any:
        """The value of an expression; of a promise what it promises."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def window(self, width: int, height: int, dark: bool = False) -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, top: float = 0, height: float = 0) -> bytes:
        """The window as PNG, or a part of the page."""
        width = self.evaluate("innerWidth")
        part = {"x": 0, "y": top, "width": width, "height": height, "scale": 1}
        chosen: dict[str, object] = {"clip": part, "captureBeyondViewport": True} if height else {}
        answer = self.ask("Page.captureScreenshot", format="png", **chosen)
        return base64.b64decode(answer["data"])

    def printed(self) -> bytes:
        """The page as PDF."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"])

    def close(self) -> None:
        self._session = ""
        self.ask("Browser.close")
        self._process.wait(30)
        os.close(self._to)
        os.close(self._from)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._from, 1 << 20)
            assert piece, f"{PROGRAM} has ended"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        assert isinstance(message, dict)
        method, said = message.get("method"), message.get("params", {})
        if method == "Log.entryAdded":
            self.complaints.append(said["entry"]["text"])
        elif method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(said))
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif method == "Network.responseReceived":
            self.loaded.append(said["response"]["url"])
        return message

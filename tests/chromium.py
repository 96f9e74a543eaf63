"""A headless Chromium that a test drives through the DevTools protocol, over two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --remote-debugging-pipe about:blank"
)


class Tab:
    """One page, and all that it asked for.

    Attributes:
        asked: URLs of every request since the last `open`.
        logged: Texts of the page's errors and of what the browser refused.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._rest, self._count = send, receive, b"", 0
        self._session: str | None = None
        self.asked: list[str] = []
        self.logged: list[str] = []
        (target,) = (
            one for one in self.do("Target.getTargets")["targetInfos"] if one["type"] == "page"
        )
        words = {"targetId": target["targetId"], "flatten": True}
        self._session = self.do("Target.attachToTarget", **words)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "DOM"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Returns the answer to a command of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while (heard := self._next()).get("id") != self._count:
            self._notice(heard)
        if "error" in heard:
            raise RuntimeError(f"{method}: {heard['error']['message']}")
        return heard["result"]

    def open(self, page: Path | str, language: str = "en-US") -> None:
        """Opens a file or an address, and waits until it is loaded."""
        self.asked.clear()
        self.logged.clear()
        self.do("Emulation.setUserAgentOverride", userAgent="", acceptLanguage=language)
        self.do("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        self.run("new Promise((done) => document.readyState === 'complete' ? done() : "
                 "addEventListener('load', () => done()))")  # fmt: skip

    def run(self, script: str) -> Any:
        """Returns the value of an expression, awaited."""
        said = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in said:
            raise RuntimeError(said["exceptionDetails"]["exception"]["description"])
        return said["result"].get("value")

    def choose(
        self, files: Sequence[Path], field: str = "document.getElementById('files')"
    ) -> None:
        """Chooses files in a field, as a person does."""
        found = self.do("Runtime.evaluate", expression=field)["result"]["objectId"]
        self.do("DOM.setFileInputFiles", files=[str(f) for f in files], objectId=found)

    def look(self, width: int, dark: bool = False, height: int = 900) -> None:
        """Sets the window's width in CSS pixels and the colour scheme."""
        sides = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.do("Emulation.setDeviceMetricsOverride", **sides, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])
        self.do("Emulation.setTouchEmulationEnabled", enabled=width < 600)

    def picture(self) -> bytes:
        """Returns the whole page as a PNG."""
        return base64.b64decode(
            self.do("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        )

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self._receive, 2**20)
            if not block:
                raise RuntimeError("Chromium ended")
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _notice(self, heard: dict[str, Any]) -> None:
        said, kind = heard.get("params", {}), heard.get("method")
        if kind == "Network.requestWillBeSent":
            self.asked.append(said["request"]["url"])
        elif kind == "Log.entryAdded":
            self.logged.append(said["entry"]["text"])
        elif kind == "Runtime.exceptionThrown":
            self.logged.append(said["exceptionDetails"]["exception"].get("description", "?"))


@contextmanager
def chromium() -> Iterator[Tab]:
    """Starts a Chromium with a new profile; it ends with the block."""
    assert BROWSER is not None
    to_read, send = os.pipe()
    receive, to_write = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # the browser takes descriptors 3 and 4
        words = ["bash", "-c", f'exec 3<&{to_read} 4>&{to_write}; exec "$@"', "chromium", BROWSER]
        process = subprocess.Popen(
            [*words, *_FLAGS.split(), f"--user-data-dir={profile}"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        try:
            tab = Tab(send, receive)
            yield tab
            tab._session = None
            tab.do("Browser.close")
            process.wait(20)
        finally:
            os.close(send)
            os.close(receive)
            if process.poll() is None:
                process.kill()
                process.wait()

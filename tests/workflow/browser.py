"""A real browser without a window: Debian's Chromium, driven through its debugging pipe."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT_S = 60
FIRST_FREE = 10  # file descriptors; Chromium reads commands from 3 and answers on 4


class Page:
    """One page.

    Attributes:
        errors: exceptions, errors on the console and failed loads so far.
        requests: addresses asked for that are in no file and no data of the page.
    """

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer, self._number, self._session = b"", 0, ""
        self._events: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path: Path) -> None:
        """Load a file and wait until it has run."""
        self._events.clear()
        self._call("Page.navigate", url=path.resolve().as_uri())
        self._wait_for("Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _wait_for(self, event: str) -> None:
        while not any(seen["method"] == event for seen in self._events):
            self._next()

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser does not answer")
            read = os.read(self._answers, 1 << 16)
            if not read:
                raise EOFError("the browser has ended")
            self._buffer += read
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self._events.append(message)
            self._note(message["method"], message["params"])
        return message

    def _note(self, method: str, found: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(found["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if found["type"] in ("error", "assert"):
                self.errors.append(json.dumps(found["args"]))
            case "Log.entryAdded" if found["entry"]["level"] == "error":
                self.errors.append(found["entry"]["text"])
            case "Network.requestWillBeSent":
                address = found["request"]["url"]
                if not address.startswith(("data:", "file:", "blob:", "about:")):
                    self.requests.append(address)


@contextmanager
def browser_page(folder: Path) -> Iterator[Page]:
    """A page of a new browser, which keeps its files in `folder` and ends with the block."""
    assert CHROMIUM is not None
    pipes = [os.pipe(), os.pipe()]
    reads, commands = (fcntl.fcntl(end, fcntl.F_DUPFD, FIRST_FREE) for end in pipes[0])
    answers, writes = (fcntl.fcntl(end, fcntl.F_DUPFD, FIRST_FREE) for end in pipes[1])
    for pipe in pipes:
        for end in pipe:
            os.close(end)

    def place() -> None:
        os.dup2(reads, 3)
        os.dup2(writes, 4)

    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [CHROMIUM, *options], preexec_fn=place, pass_fds=(3, 4), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    os.close(reads)
    os.close(writes)
    try:
        yield Page(commands, answers)
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)
        os.close(commands)
        os.close(answers)

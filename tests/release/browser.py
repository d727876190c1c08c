"""A headless Chromium, and what it says of a page: how it looks, what it complains of, what it asked the network for.

No name resolves for it, so nothing that it asks for leaves the machine, its own errands included.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NOTES = Path(os.environ.get("TMPDIR", "/tmp")) / f"quark-eagle-browser.{os.getuid()}"
"""Locked by ``tools/browser.sh`` while it installs a browser; it ends with why there is none, if there is none."""
WIDTH, HEIGHT = 1100, 1600
_PATIENCE = 180  # seconds for an installation that has begun
_FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--hide-scrollbars",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", "--lang=en"),
)
_OF_THE_BROWSER = "not an origin"  # the initiator of its own errands in the net log


@dataclass(frozen=True, kw_only=True)
class Visit:
    """What came of looking at a page.

    Attributes:
        picture: of the window's size, RGB.
        console: lines that the page wrote or caused there: errors, refusals.
        requests: addresses that the page asked for; the page itself is a file.
    """

    picture: Image.Image
    console: list[str]
    requests: list[str]


def visit(page: Path, *, dark: bool = False) -> Visit:
    """Look at a page as a reader who prefers dark or light."""
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        flags = [
            f"--screenshot={scratch / 'page.png'}",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--log-net-log={scratch / 'net.json'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        ]
        said = _run(scratch, page, flags).stderr
        with Image.open(scratch / "page.png") as picture:
            seen = picture.convert("RGB")
        return Visit(picture=seen, console=_console(said), requests=_requests(scratch / "net.json"))


def document(page: Path) -> str:
    """The document as its own scripts have left it after a second, as HTML."""
    with tempfile.TemporaryDirectory() as directory:
        return _run(Path(directory), page, ["--dump-dom", "--virtual-time-budget=1000"]).stdout


def missing() -> str | None:
    """Why there is no browser; None where there is one. Waits for one that is just being installed."""
    if NOTES.exists():
        with NOTES.open() as notes:
            _wait_for(notes.fileno())
            said = notes.read().strip()
    else:
        said = "run tools/browser.sh, or install one"
    return None if _executable() else f"no Chromium here: {said or 'its installation was interrupted'}"


def _wait_for(handle: int) -> None:
    until = time.monotonic() + _PATIENCE
    while _is_locked(handle) and time.monotonic() < until:
        time.sleep(0.5)


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _executable() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def _run(scratch: Path, page: Path, flags: list[str]) -> subprocess.CompletedProcess[str]:
    command = [_executable() or NAMES[0], *_FLAGS, f"--user-data-dir={scratch / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def _console(said: str) -> list[str]:
    return [line for line in said.splitlines() if "CONSOLE" in line]


def _requests(log: Path) -> list[str]:
    content = json.loads(log.read_text(encoding="utf-8"))
    start = content["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    begun = [event.get("params", {}) for event in content["events"] if event["type"] == start]
    return [it["url"] for it in begun if "url" in it and it.get("initiator") != _OF_THE_BROWSER]

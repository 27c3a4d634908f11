"""How the programs under test are started, and what their screens say. Owns command lines and environments."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from quanttui import transport

from ..machine import Machine
from .figure import Broken
from .live import MODEL, Clocks
from .terminal import SIZE, Picture, Terminal, python

CHECKOUT = Path(__file__).resolve().parents[3]

FOREIGN = ("QUANTTUI_", "TEXTUAL", "COLUMNS", "LINES", "COLORTERM", "NO_COLOR", "SSH_", "TMUX", "STY")
"""Of the environment that the benchmark runs in, nothing of this reaches the programs."""

REMOTE = {"SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 22"}
"""As a shell has it that came by ssh (addresses of RFC 5737, which nobody has)."""

_CLOCK = re.compile(r"\b(\d+:\d\d:\d\d)\b")


@dataclass(frozen=True)
class Bench:
    """What rows are measured with: a work folder, a machine to wait for, whether it is only a trial."""

    folder: Path
    machine: Machine
    quick: bool
    say: Callable[[str], None]

    def environment(self, **more: str) -> dict[str, str]:
        """No configuration of the user's, and a plain terminal."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        empty = self.folder / "config.toml"
        empty.touch()
        own = {
            "QUANTTUI_CACHE_DIR": str(self.folder / "cache"),
            "QUANTTUI_CONFIG": str(empty),
            "QUANTTUI_SESSIONS_DIR": str(self.folder / "sessions"),
            "TERM": "xterm-256color",
        }
        return kept | own | more

    def place(self) -> Path:
        """A folder that is not there yet, for a session."""
        return Path(tempfile.mkdtemp(dir=self.folder)) / "session"

    @contextmanager
    def session(self) -> Iterator[Path]:
        """The same, removed afterwards."""
        folder = self.place()
        try:
            yield folder
        finally:
            shutil.rmtree(folder.parent, ignore_errors=True)

    def quanttui(self, *words: str, size: tuple[int, int] = SIZE, **more: str) -> Terminal:
        """A command as a user starts it, on a terminal."""
        return Terminal(python("-m", "quanttui", *words), self.environment(**more), CHECKOUT, size)

    def live(self, folder: Path, *words: str, size: tuple[int, int] = SIZE, **more: str) -> Terminal:
        """The screen over a scripted sweep, on a terminal."""
        module = f"{__package__}.live" if __package__.startswith("tests.") else f"tests.{__package__}.live"
        return Terminal(python("-m", module, str(folder), *words), self.environment(**more), CHECKOUT, size)

    def timed(self, *words: str) -> float:
        """Seconds of a program without a terminal.

        Raises:
            Broken: it fails.
        """
        begun = time.monotonic()
        found = subprocess.run(
            python(*words), stdin=subprocess.DEVNULL, capture_output=True, env=self.environment(), cwd=CHECKOUT,
            timeout=120,
        )  # fmt: skip
        took = time.monotonic() - begun
        if found.returncode:
            last = (found.stderr.decode(errors="replace").strip().splitlines() or ["it says nothing"])[-1]
            raise Broken(f"{' '.join(words)}: exit code {found.returncode}: {last}")
        return took


def names(model: str) -> Callable[[Picture], bool]:
    """Whether the header names the model."""
    return lambda picture: model in picture.lines[0]


def clock(picture: Picture) -> float | None:
    """The session time at the cursor, as the header shows it, seconds; the session's end may follow it there."""
    found = _CLOCK.search(picture.lines[0])
    return transport.seconds(found[1]) if found else None


def stands(t: float, within: float = 1.5) -> Callable[[Picture], bool]:
    """Whether the header shows that session time."""

    def seen(picture: Picture) -> bool:
        shown = clock(picture)
        return shown is not None and abs(shown - t) <= within

    return seen


def shown(terminal: Terminal, model: str = MODEL, seconds: float = 30.0) -> float:
    """When the screen first named its model.

    Raises:
        Broken: it never does.
    """
    at = terminal.until(names(model), seconds)
    if at is None:
        raise Broken(f"no screen within {seconds:.0f} s: {words(terminal)}")
    return at


def words(terminal: Terminal) -> str:
    """The last line on the screen that says something."""
    said = [line.strip() for line in terminal.show().lines if line.strip()]
    return said[-1] if said else "nothing is on the screen"


def clocks(terminal: Terminal, folder: Path) -> Clocks:
    """What live.py says of its threads' clocks now.

    Raises:
        Broken: it says nothing.
    """
    file = folder.with_suffix(".clocks")
    file.unlink(missing_ok=True)
    os.kill(terminal.pid, signal.SIGUSR1)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if file.exists():
            return msgspec.json.decode(file.read_bytes(), type=Clocks)
        time.sleep(0.02)
    raise Broken(f"the program does not tell its clocks: {words(terminal)}")

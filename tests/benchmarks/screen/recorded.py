"""Long sessions, made up and written in seconds: samples at 4 Hz, 20 tokens a second told five times a second, beats.

The events are those of tests/builders.py; here they go straight to a log instead of into a list.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil

from quanttui import events as e
from quanttui import session
from quanttui import state as fold

if __package__.startswith("tests."):
    from tests import builders
else:  # the tests' folder is on the path, as pytest has it
    import builders

MODEL = "made-up 1.3B"

HOUR = 3600.0

TOKENS, TOK_S = 1024, 20.0

PROMPT, PROMPT_TOK_S = 512, 600.0

ARMS = tuple(sorted(builders.BY_NAME))

BEAT_SECONDS = 1.0


@dataclass
class Recording(builders.Log):
    """A log whose events go to a file, with a beat each second. `frames`: with key frames."""

    folder: Path = Path()
    frames: bool = True
    count: int = 0
    size: int = 0
    beaten: float = 0.0
    state: fold.State = field(default_factory=fold.State)

    def __post_init__(self) -> None:
        session.create(self.folder.parent, MODEL, self.folder)
        self._file = open(self.folder / session.EVENTS, "ab", buffering=1 << 20)  # noqa: SIM115 (closed by `end`)

    def put(self, event: e.Event) -> None:
        if self.count and self.t - self.beaten >= BEAT_SECONDS:
            self.beaten = self.t
            self._write(e.Beat(wall=1.7e9 + self.t, boottime=self.t))
        self._write(event)

    def _write(self, event: e.Event) -> None:
        stamped = msgspec.structs.replace(event, n=self.count, t=self.t)
        line = e.encode(stamped)
        self._file.write(line)
        self.size += len(line)
        self.count += 1
        if self.frames:
            self.state.apply(stamped)
            if self.count % session.FRAME_EVERY == 0:
                session.append_frame(self.folder / session.FRAMES, self.size, self.state)

    def flush(self) -> None:
        self._file.flush()

    def end(self) -> None:
        self._file.close()


def hours(folder: Path, count: int, closed: bool = True, frames: bool = True) -> Iterator[Recording]:
    """A session of so many hours, a quant in each. What was written so far is in the log at each yield.

    `closed` False: this process, which lives, is said to be its writer, and it is left open.
    """
    repetitions = int((HOUR - 60) / (TOKENS / TOK_S + PROMPT / PROMPT_TOK_S))
    arms = tuple(
        builders.Arm(
            quant=ARMS[at % len(ARMS)],
            id=f"{ARMS[at % len(ARMS)]}-{at}",
            tok_s=TOK_S,
            prompt_tok_s=PROMPT_TOK_S,
            tokens=TOKENS,
            repetitions=repetitions,
            chunks=16,
            ppl=8.0 + at / 100,
        )
        for at in range(count)
    )
    own: dict[str, Any] = {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}
    settings = builders.settings(prompt=PROMPT, decode=TOKENS, repetitions=repetitions)
    recording = Recording(arms, folder=folder, frames=frames, settings=settings)
    try:
        if not closed:
            _open_as(recording, own)
        else:
            recording.open()
        recording.flush()
        yield recording
        for at, arm in enumerate(arms, 1):
            recording.arm(arm)
            recording.t = max(recording.t, at * HOUR)
            if at == count and closed:
                recording.close()
            else:
                recording._write(e.Beat(wall=1.7e9 + recording.t, boottime=recording.t))
            recording.flush()
            yield recording
    finally:
        recording.end()


def _open_as(recording: Recording, own: dict[str, Any]) -> None:
    """The first event, with this process as the writer."""
    first = builders.Log(recording.arms, settings=recording.settings)
    first.open()
    recording.put(msgspec.structs.replace(first.events[0], **own))
    recording.t = first.t


def million(folder: Path) -> Recording:
    """A session of a million events or a few more, with key frames."""
    *_, recording = hours(folder, 30)
    assert recording.count >= 1_000_000, recording.count
    return recording


def short(folder: Path) -> Path:
    """A session of a few minutes and four quants, done."""
    arms = [builders.Arm("Q8_0"), builders.Arm("Q4_K_M", tok_s=25.0, swap=0.02), builders.Arm("Q2_K", tok_s=30.0)]
    session.create(folder.parent, MODEL, folder)
    (folder / session.EVENTS).write_bytes(b"".join(map(e.encode, builders.events(*arms))))
    return folder


if __name__ == "__main__":
    print(million(Path(sys.argv[1])).count)

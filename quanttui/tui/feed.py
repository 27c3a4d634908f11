"""From a session's log to a state at the cursor: one path for live, attached and replayed screens.

A thread reads events ahead into a bounded queue; the screen's timer folds them up to the cursor. Knows no widget.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.errors import UserError

AHEAD = 20_000
"""Events that may wait to be folded; the reader pauses there, so a frozen screen costs no memory."""

POLL = 0.1
"""Seconds between looks at the log."""

_BLOCK = 1 << 20


class Follower(threading.Thread):
    """Reads a log from a byte offset on and goes on as it grows. `queue` is drained by one other thread.

    `ended` is called in this thread after it has read that a unit ended: nothing is timed just then.
    """

    def __init__(
        self, folder: Path, offset: int = 0, ahead: int = AHEAD, ended: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(name="follower", daemon=True)
        self._ended = ended
        self.ahead = ahead
        self.queue: deque[e.Event | e.Unknown] = deque()
        self.poll = POLL
        self.at_end = False
        self.arrived = time.monotonic()
        self.error = ""
        self._reader = session.Reader(folder, offset)
        self._wake = threading.Event()
        self._over = False

    def run(self) -> None:
        try:
            while not self._over:
                read = len(self.queue) < self.ahead and self._read()
                if not read:
                    self._wake.wait(self.poll)
                    self._wake.clear()
        except OSError as error:
            self.error = f"{self._reader.path}: {error.strerror}"
        finally:
            self._reader.close()

    def _read(self) -> bool:
        """Take the next block; whether there was one."""
        before = self._reader.offset
        ended = False
        for event in self._reader.events(limit=_BLOCK):
            self.queue.append(event)
            ended = ended or type(event) is e.UnitDone
        more = self._reader.offset > before
        if more:
            self.arrived = time.monotonic()
        self.at_end = not more
        if ended:
            self._ended()
        return more

    def hurry(self) -> None:
        """Look at once."""
        self._wake.set()

    def stop(self) -> None:
        self._over = True
        self._wake.set()


class Feed:
    """The state at a cursor. `state` is changed only by `advance` and `seek`, in the thread that calls them.

    Args:
        folder: the session's.
        ahead: events that may wait to be folded; a block of the log comes on top.
        ended: called in another thread soon after a unit has ended.

    Raises:
        UserError: the folder holds no session.
    """

    def __init__(self, folder: Path, ahead: int = AHEAD, ended: Callable[[], object] = lambda: None) -> None:
        self.folder = folder
        self.state = fold.State()
        self._ahead = ahead
        self._ended = ended
        self._follower = Follower(folder, 0, ahead, ended)
        self._follower.start()

    def advance(self, t: float | None, budget: float = 0.05) -> bool:
        """Fold what has come up to session time `t` (None: all), for at most `budget` seconds.

        Returns:
            Whether the state stands at the cursor; if not, call again.
        """
        follower = self._follower
        at_end, queue, until = follower.at_end, follower.queue, time.monotonic() + budget
        count = 0
        while queue:
            if t is not None and queue[0].t > t:
                return True
            self.state.apply(queue.popleft())
            count += 1
            if count % 256 == 0 and time.monotonic() > until:
                break
        if queue or not at_end:
            follower.hurry()
            return False
        return True

    def seek(self, t: float | None) -> None:
        """Make ready to stand at `t`: start again from the nearest key frame where that is behind, or far ahead."""
        behind = t is not None and t < self.state.t
        for offset, frame_t, frame in reversed(session.read_frames(self.folder)):
            within = t is None or frame_t <= t
            if within and (behind or frame_t > self.state.t):
                with suppress(ValueError):
                    self._restart(offset, fold.decode(frame))
                    return
        if behind:
            self._restart(0, fold.State())

    def _restart(self, offset: int, state: fold.State) -> None:
        self._follower.stop()
        self._follower = Follower(self.folder, offset, self._ahead, self._ended)
        self._follower.start()
        self.state = state

    @property
    def waiting(self) -> int:
        """Events that were read and not folded yet."""
        return len(self._follower.queue)

    @property
    def poll(self) -> float:
        """Seconds between looks at the log."""
        return self._follower.poll

    @poll.setter
    def poll(self, seconds: float) -> None:
        self._follower.poll = seconds

    @property
    def age(self) -> float:
        """Seconds since something new was read."""
        return time.monotonic() - self._follower.arrived

    @property
    def error(self) -> str:
        """Why nothing more can be read, or nothing."""
        return self._follower.error

    def close(self) -> None:
        self._follower.stop()
        self._follower.join(timeout=1)


def end(folder: Path) -> float:
    """Session time of the last whole event in the log, seconds; 0 where there is none.

    Raises:
        UserError: the log cannot be read.
    """
    try:
        with open(folder / session.EVENTS, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            block = 1 << 16
            while True:
                file.seek(max(0, size - block))
                lines = file.read().split(b"\n")[:-1]
                for line in reversed(lines):
                    with suppress(ValueError):
                        return max(0.0, e.decode(line).t)
                if block >= size:
                    return 0.0
                block *= 4
    except OSError as error:
        raise UserError(f"{folder}: is no session ({error.strerror}): `quanttui sessions` lists them") from None

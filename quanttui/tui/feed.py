"""From a session's log to two states: of all that is known so far, and of the moment at which the cursor stands.

One path for live, attached and replayed screens. A thread reads events ahead into a bounded queue; the screen's timer
folds them. Going back starts from the nearest key frame; where a log has none, they are made while it is folded. Knows
no widget.
"""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

from quanttui import events as e
from quanttui import frames, session
from quanttui import state as fold
from quanttui.state import State, uncollected

AHEAD = 5_000
"""Events that may wait to be folded; the reader pauses there, so a screen that stands still costs no memory."""

POLL = 0.1
"""Seconds between looks at the log."""

BUDGET = 0.05
"""Seconds of folding at a time: keys are answered between."""

BUSY = 0.2
"""The same while much of a log is still to be read."""

PACKING, PATIENCE = 4, 0.1
"""Key frames that may wait to be packed, and seconds to wait for room: where the disk takes longer, one is left out."""

LATE = 0.05
"""Share of the way to the first own key frame by which it comes later: the writer's, where it makes any, is there by
then."""

LONG = 16 << 20
"""Bytes of a log from which on it is read in one go."""

_BLOCK = 1 << 20

_TOGETHER = 64
"""Events that are folded between looks at the clock: less than a millisecond."""


class Follower(threading.Thread):
    """Reads a log from a byte offset on and goes on as it grows. `queue` is drained by one other thread.

    The queue holds events, each with where its line ends in the log. `ended` is called in this thread after it has
    read that a unit ended: nothing is timed just then.
    """

    def __init__(
        self, folder: Path, offset: int = 0, ahead: int = AHEAD, ended: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(name="follower", daemon=True)
        self._ended = ended
        self.ahead = ahead
        self.queue: deque[tuple[e.Event | e.Unknown, int]] = deque()
        self.poll = POLL
        self.at_end = False
        self.arrived = time.monotonic()
        self.error = ""
        self._reader = session.Reader(folder, offset)
        self._wake, self._fed = threading.Event(), threading.Event()
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
            self.queue.append((event, self._reader.offset))
            ended = ended or type(event) is e.UnitDone
        more = self._reader.offset > before
        if more:
            self.arrived = time.monotonic()
        self.at_end = not more
        self._fed.set()
        if ended:
            self._ended()
        return more

    def hurry(self) -> None:
        """Look at once."""
        self._wake.set()

    def look(self, patience: float) -> None:
        """Look at once, and wait until all that is there was read, or `patience`, in seconds, is over."""
        until = time.monotonic() + patience
        self._fed.clear()
        self.hurry()
        while self._fed.wait(until - time.monotonic()):
            self._fed.clear()
            if self.at_end:
                break

    def more(self, until: float) -> bool:
        """Wait for the next block while the log has more; whether it may be there."""
        left = min(0.02, until - time.monotonic())
        if self.at_end or left <= 0:
            return False
        self._fed.clear()
        self.hurry()
        if not self.queue:
            self._fed.wait(left)
        return True

    def stop(self) -> None:
        self._over = True
        self._wake.set()


class Frames:
    """The key frames of a session: those that its writer made, else those that are made here, in a file that goes with
    this process."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = session.frames(folder)
        self._own: frames.Appender | None = None
        self._packing: ThreadPoolExecutor | None = None
        self._room = threading.Semaphore(PACKING)
        self._count, self._due = 0, int(session.FRAME_EVERY * (1 + LATE))

    def before(self, t: float | None) -> list[session.Frame]:
        """Those at or before `t` (None: all), the latest first. The writer may have added some meanwhile."""
        if self._own is None:
            self._known = session.frames(self._folder) or self._known
        return [one for one in reversed(self._known) if t is None or one.t <= t]

    def state(self, frame: session.Frame) -> State:
        """The state that it holds.

        Raises:
            ValueError, OSError: it cannot be had.
        """
        if self._own is not None:
            return session.read_frame(self._own.path, frame)
        return session.framed(self._folder, frame)

    @property
    def until(self) -> int:
        """Events until the next one is due."""
        return self._due - self._count

    def see(self, state: State, offset: int, count: int = 1) -> None:
        """Keep the state where a frame is due and there is none: the log's writer makes them as it goes on.

        It is packed and written in a thread, which needs no Python meanwhile.

        Args:
            count: how many events more than before it is of; no more than `until`.
        """
        self._count += count
        if self.until > 0:
            return
        self._count, self._due = 0, session.FRAME_EVERY
        if self._own is None:
            self._known = self._known or session.frames(self._folder)
            if self._known:
                return
            try:
                made, name = tempfile.mkstemp(prefix="quanttui-frames-")
            except OSError:
                return
            os.close(made)
            self._own, self._packing = frames.Appender(Path(name)), ThreadPoolExecutor(1, "key-frames")
        assert self._packing is not None
        if self._room.acquire(timeout=PATIENCE):
            self._packing.submit(self._keep, self._own, offset, self._own.take(state))

    def _keep(self, own: frames.Appender, offset: int, taken: frames.Taken) -> None:
        try:
            with suppress(OSError):
                self._known.append(own.append(offset, taken))
        finally:
            self._room.release()

    def settle(self) -> None:
        """Wait for those that are being written."""
        if self._packing is not None:
            self._packing.submit(int).result()

    def close(self) -> None:
        if self._packing is not None and self._own is not None:
            self._packing.shutdown(cancel_futures=True)
            self._own.path.unlink(missing_ok=True)


class Place:
    """The state at a moment of a log, and the way from there to a later one."""

    def __init__(self, folder: Path, offset: int = 0, state: State | None = None) -> None:
        self.state = state if state is not None else State()
        self._reader = session.Reader(folder, offset)
        self._events = self._reader.events()
        self._read: list[e.Event | e.Unknown] = []

    @property
    def offset(self) -> int:
        """Bytes of the log that were read: a few events more than were folded."""
        return self._reader.offset

    def reach(self, t: float, budget: float = BUDGET, until: Callable[[State], bool] | None = None) -> bool:
        """Fold all events up to session time `t`, for at most `budget` seconds.

        Args:
            until: looked at after each reading: where it holds, the place is reached.

        Returns:
            Whether it is reached, so far as the log goes; if not, call again.
        """
        end = time.monotonic() + budget
        with uncollected():
            while read := self._next():
                due = next((at for at, event in enumerate(read) if event.t > t), len(read))
                found = self._fold(due, until)
                if found or self._read:
                    return True
                if time.monotonic() > end:
                    return False
        return True

    def _next(self) -> list[e.Event | e.Unknown]:
        """The events that come next, some of them at least; none where the log has no more yet."""
        if not self._read:
            self._read = list(islice(self._events, _TOGETHER))
            if len(self._read) < _TOGETHER:  # a generator that has ended does not go on: the log may
                self._events = self._reader.events()
        return self._read

    def _fold(self, due: int, until: Callable[[State], bool] | None) -> bool:
        """Fold the first `due` of the events that were read; whether `until` held after one, which is then the last."""
        if until is None:
            fold.fold(self._read[:due], self.state)
            del self._read[:due]
            return False
        for at, event in enumerate(self._read[:due], start=1):
            self.state.apply(event)
            if type(event) in (e.Sample, e.UnitDone, e.PhaseDone) and until(self.state):
                del self._read[:at]
                return True
        del self._read[:due]
        return False

    def close(self) -> None:
        self._reader.close()


class Feed:
    """What a screen knows of a session. Both states are changed only by `advance` and `seek`, in the caller's thread.

    `tail` is the state after all that was read so far, `state` that at the cursor: the same one while the cursor is
    live.

    Args:
        folder: the session's.
        ahead: events that may wait to be folded; a block of the log comes on top.
        ended: called in another thread soon after a unit has ended.

    Raises:
        UserError: the folder holds no session.
    """

    def __init__(self, folder: Path, ahead: int = AHEAD, ended: Callable[[], object] = lambda: None) -> None:
        self.folder = folder
        self.tail = State()
        self._frames = Frames(folder)
        self._place: Place | None = None
        offset = 0
        for frame in self._frames.before(None):
            with suppress(ValueError, OSError):
                self.tail, offset = self._frames.state(frame), frame.offset
                break
        gc.freeze()
        self._folded = offset
        self._ahead, self._ended = ahead, ended
        self._follower = Follower(folder, offset, ahead, ended)
        self._long: session.Reader | None = None
        if self._left > LONG:
            self._long = session.Reader(folder, offset)
            self._events = self._long.events()
        else:
            self._follower.start()

    @property
    def state(self) -> State:
        """The state at the cursor."""
        return self._place.state if self._place is not None else self.tail

    def advance(self, t: float | None, budget: float = BUDGET) -> bool:
        """Fold what has come, and go on to session time `t` (None: the tail), for about `budget` seconds.

        Returns:
            Whether the state stands at the cursor; if not, call again.
        """
        followed = self._follow(budget)
        if t is None:
            self._leave_place()
            return followed
        if self._place is None:
            self.seek(t)
        assert self._place is not None
        return self._place.reach(t, budget)

    def seek(self, t: float | None) -> None:
        """Make ready to stand at `t`: from where the cursor is, or from the nearest key frame where that is nearer."""
        if t is None:
            self._leave_place()
            return
        here = self._place
        if here is None and t >= self.tail.t:
            self._put(Place(self.folder, self._folded, fold.decode(fold.encode(self.tail))))
            return
        self._frames.settle()
        known = here.offset if here is not None and here.state.t <= t else -1
        for frame in self._frames.before(t):
            if frame.offset <= known:
                break
            with suppress(ValueError, OSError):
                self._put(Place(self.folder, frame.offset, self._frames.state(frame)))
                return
        if known < 0:
            self._put(Place(self.folder))

    def find(self, start: float, end: float, wanted: Callable[[State], bool], budget: float = 1.0) -> float:
        """The first moment from `start` to `end` at which `wanted` holds of the state; `end` if there is none.

        `wanted` is asked after each reading. The cursor's state is put there.
        """
        self.seek(start)
        place = self._place
        assert place is not None
        until = time.monotonic() + budget
        while not place.reach(start, budget) and time.monotonic() < until:
            pass
        if wanted(place.state):
            return start
        place.reach(end, max(0.0, until - time.monotonic()), wanted)
        return place.state.t

    def _put(self, place: Place) -> None:
        self._leave_place()
        self._place = place

    def _leave_place(self) -> None:
        if self._place is not None:
            self._place.close()
            self._place = None

    @property
    def _left(self) -> int:
        """Bytes of the log that were not folded yet."""
        with suppress(OSError):
            return max(0, (self.folder / session.EVENTS).stat().st_size - self._folded)
        return 0

    def _read_long(self, reader: session.Reader, budget: float) -> bool:
        """Go on with a log of which much is to be read, in this thread alone: two would wait for each other. Then the
        follower takes over."""
        until, more = time.monotonic() + budget, True
        with uncollected():
            while more:
                most = min(_TOGETHER, self._frames.until)
                events = list(islice(self._events, most))
                fold.fold(events, self.tail)
                self._folded, more = reader.offset, len(events) == most
                self._frames.see(self.tail, reader.offset, len(events))
                if more and time.monotonic() > until:
                    return False
        reader.close()
        self._long = None
        gc.freeze()  # what is known stays: a collection need not look through it amid a seek
        self._follower = Follower(self.folder, self._folded, self._ahead, self._ended)
        self._follower.start()
        return False

    def _follow(self, budget: float) -> bool:
        """Fold what the reader has; whether that was all there is."""
        if self._long is not None:
            return self._read_long(self._long, budget)
        follower = self._follower
        at_end, queue, until = follower.at_end, follower.queue, time.monotonic() + budget
        count, see = 0, self._frames.see
        while queue or (budget > BUDGET and follower.more(until)):
            if not queue:
                continue
            event, offset = queue.popleft()
            self.tail.apply(event)
            self._folded = offset
            see(self.tail, offset)
            count += 1
            if count % 64 == 0 and time.monotonic() > until:
                break
        if queue or not at_end:
            follower.hurry()
            return False
        return True

    def look(self, patience: float) -> None:
        """Have what is in the log by now read, in so many seconds at most. Callable by any thread."""
        self._follower.look(patience)

    @property
    def share(self) -> float:
        """How much of the log is known, 0 to 1."""
        with suppress(OSError):
            return self._folded / max(1, self._folded + self._left)
        return 1.0

    @property
    def whole(self) -> bool:
        """Whether all that the log holds is known."""
        return self._follower.at_end and not self._follower.queue

    @property
    def waiting(self) -> int:
        """Events that were read and not folded yet; about how many there are, where much is still to be read."""
        return self._left // 200 if self._long is not None else len(self._follower.queue)

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
        if self._follower.is_alive():
            self._follower.join(timeout=1)
        if self._long is not None:
            self._long.close()
        self._leave_place()
        self._frames.close()

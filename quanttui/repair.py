"""`quanttui sessions --repair SESSION`: what of a session no reader can read, told to the byte, and taken out.

Every reader skips a damaged line by itself; a repair makes the log whole again for programs that do not, and says what
was lost. It takes out lines that are no event, the torn end, key frames that do not fit, and files that a crash left
half written, makes the key frames that are missing, and keeps the log as it was. What is whole stays as it is, byte
for byte; rows in raw/ are only told about, for a resume writes them again in their places. As data, schema 1:

    {"schema": 1, "session": name, "events": n, "done": whether it was done, "log_before": name or "", "frames": n,
     "dropped": [{"kind", "file", "line", "bytes", "why"}], "notes": [text]}

kind: line, end (of the log), frames, temporary. `line` counts from 1, 0 where there is none. `frames` were made.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import msgspec

from quanttui import events as e
from quanttui import format, paths, session
from quanttui import state as fold
from quanttui.errors import UserError
from quanttui.format import clean, size

SCHEMA = 1

TEMPORARY = ".new"
"""How the name of a file ends that is to replace another one: nobody reads it."""

TOLD = 20
"""So many notes of one kind are told one by one."""

_SHOWN = 60
_BLOCK = 1 << 20


class Dropped(msgspec.Struct, frozen=True):
    """Something that no reader can read: in `file`, on its `line` from 1 on (0: not a line), of so many bytes."""

    kind: str
    file: str
    line: int
    bytes: int
    why: str


class Found(msgspec.Struct, frozen=True):
    """What a repair does, or did where it is `done`. `events` are those that stay, `frames` the key frames to be made.

    `log_before`: the name of the log as it was, "" where it is as it was. `notes` are what cannot be mended, or needs
    no mending.
    """

    session: str
    events: int
    dropped: tuple[Dropped, ...]
    frames: int
    notes: tuple[str, ...]
    done: bool = False
    log_before: str = ""


def run(folder: Path, dry: bool = False, as_json: bool = False) -> int:
    """Repair a session, and print what was done, or JSON; 0.

    Args:
        dry: say what would be done, and do nothing.

    Raises:
        UserError: it cannot be read or written, its writer lives, or it mirrors another machine's.
    """
    found = examine(folder) if dry else repair(folder)
    print(format.json_text(data(found)) if as_json else report(found))
    return 0


def examine(folder: Path) -> Found:
    """What a repair would do.

    Raises:
        UserError: it cannot be read, its writer lives, or it mirrors another machine's.
    """
    if (there := session.origin(folder)) is not None:
        raise UserError(
            f"{clean(str(folder))}: mirrors a session of {clean(there.host, 80)}: repair it there, or delete this copy"
        )
    log = _read(folder)
    if log.writer is not None and not log.closed and session.writes(log.writer, folder):
        raise UserError(f"{clean(str(folder))}: process {log.writer[0]} is writing it: stop its sweep first")
    frames, every = tuple(_frames(folder, log)), session.FRAME_EVERY
    kept = 0 if frames else log.events - log.since
    return Found(
        session=clean(folder.name, 80),
        events=log.events,
        dropped=(*log.dropped, *frames, *_temporary(folder)),
        frames=log.events // every - kept // every,
        notes=tuple(_notes(log)),
    )


def repair(folder: Path) -> Found:
    """Take out of a session what no reader can read, and make its key frames; what was done.

    Raises:
        UserError: it cannot be read or written, its writer lives, or it mirrors another machine's.
    """
    found, before = examine(folder), ""
    try:
        if any(one.kind in ("line", "end") for one in found.dropped):
            before = _rewrite(folder, {one.line for one in found.dropped if one.kind == "line"})
        for one in found.dropped:
            if one.kind in ("frames", "temporary"):
                (folder / one.file).unlink(missing_ok=True)
        if found.frames:
            session.refold(folder, fold.State())
    except OSError as error:
        raise UserError(
            f"{clean(str(folder))}: cannot be repaired ({error.strerror}): nothing of it is lost: make room, or have "
            "the folder writable"
        ) from None
    return msgspec.structs.replace(found, done=True, log_before=before)


# --- the log --------------------------------------------------------------------------------------------------------


@dataclass
class _Rows:
    """What the log says of a file in raw/ that has `size` bytes, None where it is missing: how many rows, how many of
    them lie beyond its end, and where the last ends (of a file of lines: where it begins)."""

    size: int | None
    count: int = 0
    beyond: int = 0
    end: int = 0


@dataclass
class _Log:
    """A log, line by line: what stays, what does not, and `since` how many events the last key frame that fits came."""

    folder: Path
    events: int = 0
    unknown: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    disordered: int = 0
    fitting: int = 0
    since: int = 0
    writer: tuple[int, float] | None = None
    opened: bool = False
    closed: str = ""
    rows: dict[str, _Rows] = field(default_factory=dict)
    n: int = -1
    t: float = 0.0

    @property
    def lacks_lines(self) -> bool:
        """Whether what comes after a line that goes will lie elsewhere."""
        return any(one.kind == "line" for one in self.dropped)

    def take(self, number: int, event: e.Event | e.Unknown) -> None:
        """The next event, of line `number`."""
        self.events += 1
        self.since += 1
        self._order(number, event)
        if isinstance(event, e.Unknown):
            self.unknown += 1
        elif isinstance(event, e.SessionOpened | e.SessionResumed):
            self.opened |= isinstance(event, e.SessionOpened)
            self.writer, self.closed = (event.pid, event.pid_started), ""
        elif isinstance(event, e.SessionClosed):
            self.closed = event.outcome
        elif isinstance(event, e.Perplexity):
            self._row(event.file, event.offset, 8 * event.scored)
            if event.diverged is not None:
                self._row(event.diverged.file, event.diverged.offset, 32 * event.scored)
        elif isinstance(event, e.Item):
            self._row(event.file, event.offset, 1)

    def _order(self, number: int, event: e.Event | e.Unknown) -> None:
        said = []
        if event.n <= self.n:
            said.append(f"line {number}: event {event.n} comes after {self.n}")
        elif event.n > self.n + 1:
            said.append(f"line {number}: before event {event.n} all after {self.n} are missing")
        if event.t < self.t:
            said.append(f"line {number}: its time, {event.t:.6f} s, lies before {self.t:.6f} s")
        self.disordered += len(said)
        self.disorder += said[: TOLD - len(self.disorder)]
        self.n, self.t = max(self.n, event.n), max(self.t, event.t)

    def _row(self, file: str, offset: int, length: int) -> None:
        if not file:
            return
        rows = self.rows.get(file)
        if rows is None:
            rows = self.rows[file] = _Rows(_bytes(_named(self.folder, file)))
        rows.count += 1
        rows.beyond += rows.size is not None and offset + length > rows.size
        rows.end = max(rows.end, offset + length)


def _read(folder: Path) -> _Log:
    log, place = _Log(folder), 0
    frames = {frame.offset: frame for frame in session.frames(folder)}
    try:
        with open(folder / session.EVENTS, "rb") as file:
            for number, (line, length, is_whole) in enumerate(_lines(file), 1):
                place += length
                _line(log, number, line, length, is_whole)
                if is_whole and place in frames and _fits(folder, frames[place], log):
                    log.fitting, log.since = log.fitting + 1, 0
    except OSError as error:
        raise UserError(
            f"{clean(str(folder))}: is no session ({error.strerror}: {session.EVENTS}): `quanttui sessions` lists them"
        ) from None
    return log


def _lines(file: IO[bytes]) -> Iterator[tuple[bytes, int, bool]]:
    """Each line's bytes with its end, how many it has, and whether there is an end. Of one that is too long for an
    event its beginning."""
    while line := file.readline(session.LONGEST_LINE + 1):
        length, last = len(line), line
        while not last.endswith(b"\n") and (last := file.readline(_BLOCK)):
            length += len(last)
        yield line, length, last.endswith(b"\n")


def _line(log: _Log, number: int, line: bytes, length: int, is_whole: bool) -> None:
    if not is_whole:
        log.dropped.append(Dropped("end", session.EVENTS, number, length, f"is cut off: {_excerpt(line)}"))
        return
    try:
        if length > len(line):
            raise ValueError("too long for one")
        event = e.decode(line)
    except ValueError as error:
        why = f"is no event ({clean(str(error), 100)}): {_excerpt(line)}" if line.strip() else "is empty"
        log.dropped.append(Dropped("line", session.EVENTS, number, length, why))
        return
    log.take(number, event)


def _excerpt(line: bytes) -> str:
    return clean(line[: 4 * _SHOWN].decode("utf-8", "replace"), _SHOWN) or "nothing that can be shown"


def _rewrite(folder: Path, lines: set[int]) -> str:
    """Replace the log by itself without those lines and without what has no end; the name of the log as it was.

    The time of its last change stays: by that the latest session is found.
    """
    log, new, before = folder / session.EVENTS, folder / (session.EVENTS + TEMPORARY), _before(folder)
    changed = log.stat()
    try:
        with open(log, "rb") as old, open(new, "wb", opener=paths.private) as file:
            for number, (line, _, is_whole) in enumerate(_lines(old), 1):
                if is_whole and number not in lines:
                    file.write(line)
            file.flush()
            os.fsync(file.fileno())
        os.utime(new, ns=(changed.st_atime_ns, changed.st_mtime_ns))
        try:
            os.link(log, before)
        except (OSError, NotImplementedError):  # a disk without hard links
            os.rename(log, before)
        os.replace(new, log)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    return before.name


def _before(folder: Path) -> Path:
    """A name for the log as it was that is not taken."""
    path, again = folder / session.BEFORE_REPAIR, 1
    while path.exists():
        again += 1
        path = folder / f"{session.BEFORE_REPAIR}-{again}"
    return path


# --- what lies beside it --------------------------------------------------------------------------------------------


def _frames(folder: Path, log: _Log) -> Iterator[Dropped]:
    """The file of key frames, where one of them is not what the log comes to, or will lie elsewhere."""
    count = _bytes(folder / session.FRAMES)
    if not count:
        return
    known = session.frames(folder)
    end = known[-1].place + known[-1].length if known else 0
    why = ""
    if log.lacks_lines:
        why = "belong to the log as it was"
    elif log.fitting < len(known):
        why = f"do not fit the log: {len(known) - log.fitting} of {len(known)}"
    elif end < count:
        why = f"are torn, or another version's: {count - end} bytes of them"
    if why:
        yield Dropped("frames", session.FRAMES, 0, count, f"{why}: they are made again")


def _fits(folder: Path, frame: session.Frame, log: _Log) -> bool:
    """Whether a key frame is a state of this log after all events so far."""
    with suppress(OSError, ValueError):
        state = session.read_frame(folder / session.FRAMES, frame)
        return (state.n, state.t) == (log.n, log.t)
    return False


def _temporary(folder: Path) -> Iterator[Dropped]:
    for name in (session.EVENTS, session.MANIFEST, session.REMOTE):
        count = _bytes(folder / (name + TEMPORARY))
        if count is not None:
            why = f"was left by a process that died while it replaced {name}"
            yield Dropped("temporary", name + TEMPORARY, 0, count, why)


def _bytes(path: Path | None) -> int | None:
    """A file's size, None where it is none."""
    with suppress(OSError):
        return path.stat().st_size if path is not None and path.is_file() else None
    return None


def _named(folder: Path, file: str) -> Path | None:
    """The file in raw/ that the log names, None where that is none."""
    parts = PurePosixPath(file.replace("\\", "/")).parts
    if len(parts) != 2 or parts[0] != "raw":
        return None
    path = session.part(folder, *parts)
    return path if path.name == parts[1] else None


# --- what is told ---------------------------------------------------------------------------------------------------


def _notes(log: _Log) -> Iterator[str]:
    if log.events and not log.opened:
        yield "its opening is gone: what it holds can be reported, and it cannot be resumed"
    if log.unknown:
        yield f"{log.unknown} events are a newer quanttui's: they stay"
    yield from log.disorder
    if log.disordered > len(log.disorder):
        yield f"and {log.disordered - len(log.disorder)} more places where events are missing or out of order"
    for file, rows in sorted(log.rows.items()):
        yield from _rows(log.folder, file, rows)


def _rows(folder: Path, file: str, rows: _Rows) -> Iterator[str]:
    name, path = clean(file, 80), _named(folder, file)
    if path is None or rows.size is None:
        yield f"{name}: {'is missing' if path else 'is no file of raw/'}: the log names {rows.count} rows of it"
        return
    if rows.beyond:
        gone = f"{rows.beyond} of the {rows.count} rows that the log names are gone"
        yield f"{name}: ends after {size(rows.size)}: {gone}"
        return
    end = _line_end(path, rows.end - 1) if path.suffix == ".jsonl" else rows.end
    if end is None:
        yield f"{name}: its last line that the log names is cut off"
    elif rows.size > end:
        more = f"{rows.size - end} bytes are of a unit that was not recorded"
        yield f"{name}: {more}: they stay, a resume writes it again"


def _line_end(path: Path, begin: int) -> int | None:
    """Where the line that begins there ends, None where it has no end."""
    with suppress(OSError), open(path, "rb") as file:
        file.seek(begin)
        line = file.readline()
        return begin + len(line) if line.endswith(b"\n") else None
    return None


def report(found: Found) -> str:
    """What was or would be done, a line each."""
    return "\n".join(_told(found))


def _told(found: Found) -> Sequence[str]:
    dropped, made = ("dropped", "made") if found.done else ("would drop", "would make")
    is_whole = not found.dropped and not found.frames
    told = [f"{found.session}: {found.events} events{', nothing to repair' if is_whole else ''}"]
    for one in found.dropped:
        where = {"line": f"line {one.line} of {one.file}", "end": f"the end of {one.file}, its line {one.line}"}
        told.append(f"{dropped}: {where.get(one.kind, one.file)}, {one.bytes} bytes: {one.why}")
    if found.frames:
        told.append(f"{made}: {found.frames} key frame{'s' if found.frames > 1 else ''}")
    if found.log_before:
        told.append(f"the log as it was: {found.log_before}")
    return [*told, *(f"note: {note}" for note in found.notes)]


def data(found: Found) -> dict[str, Any]:
    """The same as the object above."""
    plain: dict[str, Any] = msgspec.to_builtins(found)
    return {"schema": SCHEMA, **plain}

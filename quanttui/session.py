"""A session's folder: the one writer, the readers, the followers, key frames. Knows events and states, no sweep.

    <sessions>/<date>-<model>/
        events.jsonl    one event a line, append-only (quanttui.events)
        frames.idx      key frames: the state every FRAME_EVERY events; rebuilt when missing
        control.jsonl   requests from viewers, append-only
        manifest.json   versions, host, settings, sha256 of every GGUF
        raw/ stderr/ snapshots/

A line that was torn by a crash is skipped by every reader and cut off by the next writer; what was whole stays.
FORMAT.md beside this file says all of it to who writes another reader; quanttui.repair mends what is damaged.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from quanttui import events as e
from quanttui import frames as key_frames
from quanttui import paths
from quanttui import state as fold
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.stats.divergence import Rows

EVENTS, FRAMES, CONTROL, MANIFEST = "events.jsonl", "frames.idx", "control.jsonl", "manifest.json"
REMOTE = "remote.json"
"""In the mirror of another machine's session alone: where it comes from (`Origin`)."""
BEFORE_REPAIR = "events.jsonl.before-repair"
"""The log as it was before quanttui.repair took something out of it; `-2`, `-3` after it for later ones."""
LOGITS = "base.logits"
"""In raw/: the base's logits, large, and made again where they are missing."""
FRAME_EVERY = 5_000
"""Events between key frames: reading and folding that many takes less than a tenth of a second."""

_BLOCK = 1 << 20
_READ = 1 << 16
"""Bytes of a log that are read at a time. A viewer that read 1 MiB at a time grew by 4 MB with every hour of events:
what it kept lay between such blocks, so that no later one found room there."""
_TAIL = 1 << 12
_COARSE = 2_000_000_000
"""Nanoseconds: no file system's times are coarser."""

ROOM = 1 << 18
"""Bytes for which a disk has room that is not full: more than any line, manifest or row of raw/ that comes next."""

LONGEST_LINE = 1 << 24
"""Bytes, its end left out. No event is as long: of a longer line nothing is kept while its end is looked for."""


def create(sessions: Path, model: str, name: Path | None = None) -> Path:
    """A new, empty session folder: `name`, or `<date>-<model>` below `sessions`. One whose log was begun and has not
    come to a whole line, for want of room, counts as empty.

    Raises:
        UserError: it exists already with a log in it, or cannot be written.
    """
    given, flags = name is not None, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    if name is None:
        stem = time.strftime("%Y-%m-%d-") + (re.sub(r"[^a-z0-9]+", "-", clean(model, 60).lower()).strip("-") or "model")
        name, again = sessions / stem, 1
        while name.exists():
            again += 1
            name = sessions / f"{stem}-{again}"
    elif (name / EVENTS).exists():
        if _begun(name / EVENTS):
            raise UserError(f"{name}: holds a session already: give another --session, or go on with --resume {name}")
        flags = os.O_WRONLY | os.O_APPEND
    try:
        for part in ("raw", "stderr", "snapshots"):
            paths.made(name / part)
        os.close(os.open(name / EVENTS, flags, 0o600))
    except FileExistsError:  # another process made it at the same moment
        if not given:
            return create(sessions, model)
        raise UserError(f"{name}: holds a session already: give another --session") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be written ({error.strerror}): choose another folder with --session") from None
    return name


def _begun(log: Path) -> bool:
    """Whether a log has a line, or cannot be looked into."""
    try:
        with open(log, "rb") as file:
            return b"\n" in file.read(LONGEST_LINE)
    except OSError:
        return True


class Writer:
    """The only one that appends to a session's log. Safe to use from several threads.

    Session time goes on from the last event of an existing log. `origin_ns` is the monotonic clock at t = 0.

    Args:
        folder: the session's folder.
        state: filled with what the log holds already, and kept up to date with every event appended.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = fold.State()
        self._lock = threading.Lock()
        whole, self._since_frame = refold(folder, self.state)
        self._place = _place(folder / EVENTS)
        # A file object, so that one who is forgotten lets go of it; opened without making a log where there is none.
        self._file = open(folder / EVENTS, "ab", buffering=0, opener=_to_append)  # noqa: SIM115
        self.log = self._file.fileno()
        os.ftruncate(self.log, whole)
        self._size = whole
        self.origin_ns = time.monotonic_ns() - int(self.state.t * 1e9)
        self._frames = key_frames.Appender(folder / FRAMES)
        self._synced = 0

    def now(self) -> float:
        """Session time, seconds."""
        return (time.monotonic_ns() - self.origin_ns) / 1e9

    def append(self, event: e.Event) -> e.Event:
        """Stamp the event, append it in one write, fold it into the state.

        Raises:
            UserError: the disk is full, or the folder is gone; the log is left at its last whole line.
        """
        with self._lock:
            stamped = msgspec.structs.replace(event, n=self.state.n + 1, t=max(self.state.t, self.now()))
            line = e.encode(stamped)
            try:
                written = os.write(self.log, line)
                if written != len(line):
                    raise OSError(28, os.strerror(28))
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self.log, self._size)
                raise self._unwritable(error) from None
            self._size += len(line)
            self.state.apply(stamped)
            self._since_frame += 1
            if self._since_frame >= FRAME_EVERY:
                self._frame()
            return stamped

    def stays(self) -> None:
        """That the log still lies where it did: what is written beside it must not go elsewhere.

        Raises:
            UserError: the session was moved, deleted or replaced.
        """
        if _place(self.folder / EVENTS) != self._place:
            raise UserError(
                f"{self.folder}: was moved or deleted while its sweep ran: what was recorded went with it; where it is "
                "now, quanttui run --resume FOLDER goes on with it"
            )

    def check(self) -> None:
        """That more can be recorded: the session lies where it did, and its disk has room for ROOM bytes. What fails
        for want of either is not an arm's fault.

        Raises:
            UserError: it cannot.
        """
        self.stays()
        try:
            with tempfile.TemporaryFile(dir=self.folder, buffering=0) as file:
                if file.write(bytes(ROOM)) != ROOM:
                    raise OSError(28, os.strerror(28))
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"{self.folder / EVENTS}: {error.strerror}: what was recorded stays; make room, then quanttui run --resume "
            f"{self.folder}"
        )

    def _frame(self) -> None:
        self._since_frame = 0
        with suppress(OSError):
            self._frames.append(self._size, self._frames.take(self.state))

    def sync(self) -> None:
        """Have the log on the disk itself, and before it what it speaks of: the files of raw/ that have changed."""
        begun = time.time_ns()
        with suppress(OSError):
            for path in (self.folder / "raw").iterdir():
                with suppress(OSError):
                    if not path.name.startswith(LOGITS) and path.stat().st_mtime_ns >= self._synced:
                        with open(path, "r+b", buffering=0) as file:
                            os.fsync(file.fileno())
            self._synced = begun - _COARSE
        with suppress(OSError):
            os.fsync(self.log)

    def close(self) -> None:
        self.sync()
        self._file.close()


def _place(log: Path) -> tuple[int, int] | None:
    """Which file lies there."""
    try:
        status = os.stat(log)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _to_append(path: str, _: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))


class Reader:
    """Reads a log from an offset on. Only whole lines; what is no event is counted in `dropped` and skipped.

    A line of more than LONGEST_LINE bytes is none: `_over` counts those of it that were let go already.
    """

    def __init__(self, folder: Path, offset: int = 0) -> None:
        self.path = folder / EVENTS
        self.offset = offset
        self.dropped = 0
        self._rest, self._over = b"", 0
        try:
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"{folder}: is no session ({error.strerror}: {EVENTS}): `quanttui sessions` lists them"
            ) from None

    def events(self, limit: int | None = None) -> Iterator[e.Event | e.Unknown]:
        """The events that are there now, from where the last call ended. `offset` follows whole lines.

        Args:
            limit: bytes to read at most; the rest comes with the next call.
        """
        left = limit
        while left is None or left > 0:
            block = os.pread(self._file.fileno(), _READ, self.offset + self._over + len(self._rest))
            if not block:
                return
            if left is not None:
                left -= len(block)
            lines = (self._rest + block).split(b"\n")
            self._rest = lines.pop()
            if lines and (self._over or len(lines[0]) > LONGEST_LINE):
                self.offset += self._over + len(lines.pop(0)) + 1
                self.dropped, self._over = self.dropped + 1, 0
            if len(self._rest) > LONGEST_LINE:
                self._rest, self._over = b"", self._over + len(self._rest)
            for line in lines:
                self.offset += len(line) + 1
                if not line:
                    continue
                try:
                    yield e.decode(line)
                except ValueError:
                    self.dropped += 1

    def close(self) -> None:
        self._file.close()


def load(folder: Path) -> fold.State:
    """The state after the whole log, by way of the last key frame where there is one.

    Raises:
        UserError: there is no log, or it holds lines and none of them is an event.
    """
    for frame in reversed(frames(folder)):
        with suppress(ValueError, OSError):
            return _fold_from(folder, frame.offset, framed(folder, frame))
    return _fold_from(folder, 0, fold.State())


def _fold_from(folder: Path, offset: int, state: fold.State) -> fold.State:
    reader = Reader(folder, offset)
    try:
        found = fold.fold(reader.events(), state)
    finally:
        reader.close()
    if reader.dropped and found.opened is None and not (found.arms or found.unknown or found.n >= 0):
        raise UserError(f"{clean(str(folder))}: {_unreadable(folder)}")
    return found


class _Opening(msgspec.Struct):
    """What the first line of a log of any schema tells."""

    schema: int


def _unreadable(folder: Path) -> str:
    """Why nothing of a log is an event."""
    with suppress(OSError, ValueError, RecursionError), open(folder / EVENTS, "rb") as file:
        schema = msgspec.json.decode(file.readline(_BLOCK), type=_Opening).schema
        if schema > e.SCHEMA:
            return f"was written by a newer quanttui (log schema {schema}, this one reads {e.SCHEMA}): update quanttui"
    return f"no line of {EVENTS} is an event: `quanttui sessions --repair` says what is there"


def newer(state: fold.State) -> str:
    """What is to be said of a log that a newer quanttui wrote, in one line; "" of any other."""
    schema = state.opened.schema if state.opened is not None else e.SCHEMA
    if schema <= e.SCHEMA and not state.unknown:
        return ""
    known = f" (log schema {schema}, this one's is {e.SCHEMA})" if schema > e.SCHEMA else ""
    return f"written by a newer quanttui{known}: {state.unknown} events of it were skipped"


def refold(folder: Path, state: fold.State) -> tuple[int, int]:
    """Fold a log into `state`, for its next writer, from its last key frame on, and make the key frames that are
    missing. Nobody else may write to the session meanwhile.

    Returns:
        the end of its last whole line, and how many events came after the last key frame.
    """
    path, known = folder / FRAMES, frames(folder)
    if known and not _belongs(folder / EVENTS, known[-1]):
        known = []
    while known and not _taken_up(state, folder, known[-1]):
        known.pop()
    with suppress(OSError):
        os.truncate(path, known[-1].place + known[-1].length if known else 0)
    reader, count, made = Reader(folder, known[-1].offset if known else 0), 0, key_frames.Appender(path)
    for event in reader.events():
        state.apply(event)
        count += 1
        if count % FRAME_EVERY == 0:
            with suppress(OSError):
                made.append(reader.offset, made.take(state))
    reader.close()
    return reader.offset, count % FRAME_EVERY


def _taken_up(state: fold.State, folder: Path, frame: Frame) -> bool:
    """Have the state be what a key frame holds; False where that cannot be read."""
    try:
        found = framed(folder, frame)
    except (ValueError, OSError):
        return False
    for name in state.__struct_fields__:
        setattr(state, name, getattr(found, name))
    return True


Frame = key_frames.Frame
append_frame, read_frame = key_frames.append, key_frames.read


def frames(folder: Path) -> list[Frame]:
    """The key frames of a session; torn or foreign ones, and what comes after them, are left out."""
    try:
        return key_frames.listed(folder / FRAMES, (folder / EVENTS).stat().st_size)
    except OSError:
        return []


def framed(folder: Path, frame: Frame) -> fold.State:
    """The state that a key frame of a session holds.

    Raises:
        ValueError: it is torn, of another version, or of another log.
        OSError: it cannot be read.
    """
    if not _belongs(folder / EVENTS, frame):
        raise ValueError("it is of another log")
    return read_frame(folder / FRAMES, frame)


def _belongs(log: Path, frame: Frame) -> bool:
    """Whether the line that ends where a frame says is of the time that it says: no other log has such a line there."""
    if frame.offset == 0:
        return frame.t <= 0
    with open(log, "rb", buffering=0) as file:
        size = _TAIL
        while True:
            begin = max(0, frame.offset - size)
            lines = os.pread(file.fileno(), frame.offset - begin, begin).split(b"\n")
            if len(lines) > 2 or begin == 0 or size > LONGEST_LINE:
                break
            size *= 16
    try:
        return len(lines) > 1 and lines[-1] == b"" and int(e.decode(lines[-2]).t * 1e9) == round(frame.t * 1e9)
    except ValueError:
        return False


def end(folder: Path) -> float:
    """Session time of the last whole event in the log, seconds; 0 where there is none.

    Raises:
        UserError: the log cannot be read.
    """
    try:
        with open(folder / EVENTS, "rb") as file:
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


class Info(msgspec.Struct, frozen=True):
    """A session as the list shows it. state: running, done, interrupted, empty, unreadable. `note`: what is to be said
    of it, "" without."""

    folder: Path
    name: str
    model: str
    state: str
    wall: float
    arms: int
    arms_done: int
    seconds: float
    note: str = ""


def alive(pid: int, started: float) -> bool:
    """Whether the process that wrote pid and start time into a log still runs (a pid may have been reused)."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) < 2.0)
    except (psutil.Error, ValueError, OverflowError):  # a log from elsewhere may name any number
        return False


BEATS = 5.0
"""A writer adds a line to its log once a second; so long after the last one it may still live."""


def writes(writer: tuple[int, float], folder: Path | None) -> bool:
    """Whether a log's writer, a pid and its start time, still runs. When a process began is reckoned from the clock on
    some systems, and is another time once that is set: a log that grew a moment ago tells of its writer too, where a
    process of that number is there, of Python as ours are."""
    pid, started = writer
    if alive(pid, started):
        return True
    try:
        if folder is None or pid <= 0 or abs(time.time() - (folder / EVENTS).stat().st_mtime) >= BEATS:
            return False
        return any("python" in word for word in psutil.Process(pid).cmdline()[:1])
    except (psutil.Error, OSError):
        return False


class Origin(msgspec.Struct, frozen=True):
    """Whose session a mirror is: of `host`, from `folder` there. `key` tells it from others of the same name.

    `alive`: whether its writer ran when that machine last said so, at its Unix time `wall`. `asked`: bytes of the
    mirror's control.jsonl that were carried there.
    """

    host: str
    session: str
    folder: str
    key: str
    alive: bool
    wall: float
    asked: int = 0


def origin(folder: Path) -> Origin | None:
    """Where a mirror comes from; None for a session of this machine."""
    try:
        return msgspec.json.decode((folder / REMOTE).read_bytes(), type=Origin)
    except (OSError, ValueError, RecursionError):
        return None


def status(state: fold.State, folder: Path | None = None) -> str:
    """running, done, interrupted, or empty where nothing was recorded.

    Args:
        folder: the session's. Of a mirror, that machine's last word says whether its writer lives: a process of this
            one that has the same number means nothing.
    """
    if state.opened is None or state.writer is None:
        return "empty"
    if state.closed:
        return "interrupted" if state.closed == "interrupted" else "done"
    mirrored = origin(folder) if folder is not None else None
    runs = mirrored.alive if mirrored else writes(state.writer, folder)
    return "running" if runs else "interrupted"


def info(folder: Path) -> Info:
    """What the list says of one session."""
    try:
        state = load(folder)
    except UserError as error:
        return Info(folder, folder.name, "", "unreadable", 0.0, 0, 0, 0.0, str(error))
    return Info(
        folder=folder,
        name=folder.name,
        model=clean(state.model),
        state=status(state, folder),
        wall=state.wall,
        arms=len(state.arms),
        arms_done=sum(arm.outcome not in ("planned", "running") for arm in state.arms.values()),
        seconds=state.t,
        note=newer(state),
    )


def listing(sessions: Path) -> list[Info]:
    """The sessions in a folder, newest first. What is no session is left out."""
    found = []
    for folder in sorted(sessions.glob("*/")) if sessions.is_dir() else []:
        with suppress(UserError, OSError):
            if (folder / EVENTS).is_file():
                found.append(info(folder))
    return sorted(found, key=lambda one: one.wall, reverse=True)


def find(sessions: Path, name: str | None) -> Path:
    """The session that a command names: a folder, a name below `sessions`, or the latest for None or "latest".

    Raises:
        UserError: there is none.
    """
    if name in (None, "", "latest"):
        folders = [folder for folder in sessions.glob("*/") if (folder / EVENTS).is_file()]
        if not folders:
            raise UserError(f"{sessions}: holds no session yet: `quanttui demo` records one")
        return max(folders, key=lambda folder: (folder / EVENTS).stat().st_mtime)
    assert name is not None
    for folder in (Path(name), sessions / name):
        if (folder / EVENTS).is_file():
            return folder
    raise UserError(f"{clean(name)}: is no session: `quanttui sessions` lists those in {sessions}")


class _Request(msgspec.Struct, frozen=True):
    """A line of control.jsonl."""

    request: str
    arm: str = ""
    value: str | float = ""


LONGEST_NAME = 120
"""Characters of a file's name."""

RECENT = 5
"""So many of the latest sessions are looked at for one that runs."""


def running(sessions: Path) -> Path | None:
    """The latest session that somebody writes, None where there is none: what `attach` means by itself."""
    folders = [folder for folder in sessions.glob("*/") if (folder / EVENTS).is_file()]
    folders.sort(key=lambda folder: (folder / EVENTS).stat().st_mtime, reverse=True)
    return next((folder for folder in folders[:RECENT] if info(folder).state == "running"), None)


OWN = (FRAMES, CONTROL, MANIFEST, REMOTE, "raw", "stderr", "snapshots")
"""What a session's folder holds beside its log."""


def delete(folder: Path, sessions: Path) -> str:
    """Delete a session for good; the log goes last, so that what is begun can be done again.

    Returns:
        the name of something in its folder that is not a session's, and stays; "" where the folder is gone.

    Raises:
        UserError: it is no session of `sessions`, or it is being written.
        OSError: something cannot be deleted.
    """
    if folder.is_symlink() or folder.resolve().parent != sessions.resolve() or not (folder / EVENTS).is_file():
        raise UserError(f"{clean(str(folder))}: is no session below {clean(str(sessions))}: nothing is deleted")
    if info(folder).state == "running":
        raise UserError(f"{clean(folder.name)}: is running: stop its sweep first")
    more = [path.name for kind in ("report.*", f"{BEFORE_REPAIR}*") for path in folder.glob(kind) if path.is_file()]
    for name in (*OWN, *more, EVENTS):
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    left = sorted(path.name for path in folder.iterdir())
    if left:
        return clean(left[0], 80)
    folder.rmdir()
    return ""


def request(folder: Path, act: str, arm: str = "", value: str = "") -> None:
    """Ask the sweep that writes this session to do something (events.Control): one line appended to control.jsonl.

    Raises:
        OSError: it cannot be written.
    """
    line = json.dumps({"request": act, "arm": arm, "value": value, "wall": time.time()}) + "\n"
    leave(folder, line.encode())


def leave(folder: Path, line: bytes) -> None:
    """Append a request to control.jsonl in one write, behind the end of one that was cut off.

    Raises:
        OSError: it cannot be written; half a line may be left, which is no request.
    """
    path = folder / CONTROL
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        whole = b"\n" + line if torn else line
        if os.write(file, whole) != len(whole):
            raise OSError(28, os.strerror(28), str(path))
    finally:
        os.close(file)


def requests(folder: Path, offset: int) -> Iterator[e.Control]:
    """Requests from a byte offset of control.jsonl on, whole lines only; a line that is none comes back refused."""
    try:
        with open(folder / CONTROL, "rb") as file:
            file.seek(offset)
            data = file.read(_BLOCK)
    except OSError:
        return
    lines = data.split(b"\n")
    for line in lines[:-1] if len(lines) > 1 or len(data) < _BLOCK else [data[:-1]]:
        offset += len(line) + 1
        if not line:
            continue
        try:
            found = msgspec.json.decode(line, type=_Request)
        except (ValueError, RecursionError):
            said = clean(line[:80].decode("utf-8", "replace"), 40)
            yield e.Control(request=said, offset=offset, refused="it is no request")
        else:
            told = clean(found.request, 40), clean(found.arm, 80), clean(str(found.value), 40)
            yield e.Control(request=told[0], arm=told[1], value=told[2], offset=offset)


def part(folder: Path, kind: str, name: str) -> Path:
    """Where a file of the session lies: `kind` is raw, stderr or snapshots. The name cannot leave the folder, nor be
    too long for it; names that must be changed stay apart by their digest."""
    plain = re.sub(r"[^A-Za-z0-9_.+-]", "_", name).lstrip(".")
    if plain != name or len(plain) > LONGEST_NAME:
        stem, dot, ending = plain.rpartition(".")
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        plain = f"{(stem or ending)[: LONGEST_NAME - 40]}-{digest}{dot}{ending[:20] if stem else ''}"
    return folder / kind / plain


def rows(folder: Path, arm: fold.Arm) -> Rows | None:
    """What is known of each token that was compared with the base's logits, in the text's order, from raw/.

    None where there is none, or where the files are gone, cut off, or not what the log has summed up.
    """
    import numpy as np

    compared = sorted((index, chunk.scored) for index, chunk in arm.chunks.items() if chunk.kld is not None)
    if not compared or sum(scored for _, scored in compared) != arm.rows.sums.scored:
        return None
    parts = []
    try:
        with open(part(folder, "raw", f"{arm.id}.nll"), "rb") as nll, open(
            part(folder, "raw", f"{arm.id}.kld"), "rb"
        ) as kld:
            for index, scored in compared:
                mine = os.pread(nll.fileno(), 8 * scored, 8 * scored * index)
                base = os.pread(kld.fileno(), 32 * scored, 32 * scored * index)
                if (len(mine), len(base)) != (8 * scored, 32 * scored):
                    return None
                ours = np.frombuffer(mine, "<f8").astype(np.float64)
                parts.append(Rows.of(np.vstack([ours[None], np.frombuffer(base, "<f8").reshape(4, scored)])))
    except OSError:
        return None
    joined, known = Rows.joined(parts), arm.rows.sums
    same = all(
        math.isclose(float(found.sum()), total, rel_tol=1e-6, abs_tol=1e-6)
        for found, total in ((joined.nll, known.nll), (joined.kld, known.kld), (joined.p_diff, known.p_diff))
    )
    return joined if same else None


def manifest(state: fold.State) -> dict[str, Any]:
    """What somebody needs to know to repeat the session: versions, machine, settings, and every GGUF by sha256.

    Of each: where it or what it was made from came from, `made_from` ("" for a file that was there), the importance
    matrix that it was made with ("" if none is known of), and how many of its tensors really have which type.
    """
    files = [(arm.plan, arm.file) for arm in state.arms.values() if arm.file is not None]
    return {
        "schema": e.SCHEMA,
        "model": state.model,
        "opened": state.wall,
        "build": e.plain(state.build) if state.build else None,
        "host": e.plain(state.host) if state.host else None,
        "settings": e.plain(state.settings),
        "files": [
            {"arm": file.arm, "quant": file.quant, "file": file.file, "bytes": file.bytes, "sha256": file.sha256,
             "origin": plan.origin or "file", "made_from": plan.source, "imatrix": file.imatrix,
             "tensor_types": file.tensor_types}
            for plan, file in files
        ],
    }


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Replace manifest.json whole."""
    temporary = folder / (MANIFEST + ".new")
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    paths.write(temporary, text.encode("utf-8", "surrogateescape"))
    os.replace(temporary, folder / MANIFEST)

"""A session's folder: the one writer, the readers, the followers, key frames. Knows events and states, no sweep.

    <sessions>/<date>-<model>/
        events.jsonl    one event a line, append-only (quanttui.events)
        frames.idx      key frames: the state every FRAME_EVERY events; rebuilt when missing
        control.jsonl   requests from viewers, append-only
        manifest.json   versions, host, settings, sha256 of every GGUF
        raw/ stderr/ snapshots/

A line that was torn by a crash is skipped by every reader and cut off by the next writer; what was whole stays.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from quanttui import events as e
from quanttui import state as fold
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.stats.divergence import Rows

EVENTS, FRAMES, CONTROL, MANIFEST = "events.jsonl", "frames.idx", "control.jsonl", "manifest.json"
FRAME_EVERY = 20_000
"""Events between key frames: folding that many takes well under a second."""

_FRAME = struct.Struct("<4sQQI")
_BLOCK = 1 << 20


def create(sessions: Path, model: str, name: Path | None = None) -> Path:
    """A new, empty session folder: `name`, or `<date>-<model>` below `sessions`.

    Raises:
        UserError: it exists already with a log in it, or cannot be written.
    """
    if name is None:
        stem = time.strftime("%Y-%m-%d-") + (re.sub(r"[^a-z0-9]+", "-", clean(model, 60).lower()).strip("-") or "model")
        name, again = sessions / stem, 1
        while name.exists():
            again += 1
            name = sessions / f"{stem}-{again}"
    elif (name / EVENTS).exists():
        raise UserError(f"{name}: holds a session already: give another --session, or go on with --resume {name}")
    try:
        name.mkdir(parents=True, exist_ok=True, mode=0o700)
        for part in ("raw", "stderr", "snapshots"):
            (name / part).mkdir(exist_ok=True, mode=0o700)
        os.close(os.open(name / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise UserError(f"{name}: cannot be written ({error.strerror}): choose another folder with --session") from None
    return name


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
        reader = Reader(folder)
        fold.fold(reader.events(), self.state)
        whole = reader.offset
        self.log = os.open(folder / EVENTS, os.O_WRONLY | os.O_APPEND | getattr(os, "O_CLOEXEC", 0))
        os.ftruncate(self.log, whole)
        self._size = whole
        self._since_frame = 0
        self.origin_ns = time.monotonic_ns() - int(self.state.t * 1e9)

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
                raise UserError(
                    f"{self.folder / EVENTS}: {error.strerror}: what was recorded stays; make room, then "
                    f"quanttui run --resume {self.folder}"
                ) from None
            self._size += len(line)
            self.state.apply(stamped)
            self._since_frame += 1
            if self._since_frame >= FRAME_EVERY:
                self._frame()
            return stamped

    def _frame(self) -> None:
        self._since_frame = 0
        with suppress(OSError):
            append_frame(self.folder, self._size, self.state)

    def sync(self) -> None:
        """Have the log on the disk itself."""
        with suppress(OSError):
            os.fsync(self.log)

    def close(self) -> None:
        self.sync()
        os.close(self.log)


class Reader:
    """Reads a log from an offset on. Only whole lines; what is no event is counted in `dropped` and skipped."""

    def __init__(self, folder: Path, offset: int = 0) -> None:
        self.path = folder / EVENTS
        self.offset = offset
        self.dropped = 0
        self._rest = b""
        try:
            self._file = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
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
            block = os.pread(self._file, _BLOCK, self.offset + len(self._rest))
            if not block:
                return
            if left is not None:
                left -= len(block)
            lines = (self._rest + block).split(b"\n")
            self._rest = lines.pop()
            for line in lines:
                self.offset += len(line) + 1
                if not line:
                    continue
                try:
                    yield e.decode(line)
                except ValueError:
                    self.dropped += 1

    def close(self) -> None:
        os.close(self._file)


def load(folder: Path) -> fold.State:
    """The state after the whole log, by way of the last key frame where there is one."""
    frames = read_frames(folder)
    while frames:
        offset, _, frame = frames.pop()
        with suppress(ValueError):
            return _fold_from(folder, offset, fold.decode(frame))
    return _fold_from(folder, 0, fold.State())


def _fold_from(folder: Path, offset: int, state: fold.State) -> fold.State:
    reader = Reader(folder, offset)
    try:
        return fold.fold(reader.events(), state)
    finally:
        reader.close()


def append_frame(folder: Path, offset: int, state: fold.State) -> None:
    """Add a key frame: the state after the first `offset` bytes of the log."""
    frame = fold.encode(state)
    with open(folder / FRAMES, "ab") as file:
        file.write(_FRAME.pack(fold.layout(), offset, int(state.t * 1e9), len(frame)) + frame)


def read_frames(folder: Path) -> list[tuple[int, float, bytes]]:
    """Key frames as (offset in the log, session time, encoded state), torn or foreign ones left out."""
    try:
        data = (folder / FRAMES).read_bytes()
        size = (folder / EVENTS).stat().st_size
    except OSError:
        return []
    frames, at = [], 0
    while at + _FRAME.size <= len(data):
        magic, offset, t_ns, length = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        if magic != fold.layout() or len(body) < length or offset > size:
            break
        frames.append((offset, t_ns / 1e9, body))
        at += _FRAME.size + length
    return frames


class Info(msgspec.Struct, frozen=True):
    """A session as the list shows it. state: running, done, interrupted, empty."""

    folder: Path
    name: str
    model: str
    state: str
    wall: float
    arms: int
    arms_done: int
    seconds: float


def alive(pid: int, started: float) -> bool:
    """Whether the process that wrote pid and start time into a log still runs (a pid may have been reused)."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - started) < 2.0)
    except psutil.Error:
        return False


def status(state: fold.State) -> str:
    """running, done, interrupted, or empty where nothing was recorded."""
    if state.opened is None or state.writer is None:
        return "empty"
    if state.closed:
        return "interrupted" if state.closed == "interrupted" else "done"
    return "running" if alive(*state.writer) else "interrupted"


def info(folder: Path) -> Info:
    """What the list says of one session."""
    state = load(folder)
    return Info(
        folder=folder,
        name=folder.name,
        model=clean(state.model),
        state=status(state),
        wall=state.wall,
        arms=len(state.arms),
        arms_done=sum(arm.outcome not in ("planned", "running") for arm in state.arms.values()),
        seconds=state.t,
    )


def listing(sessions: Path) -> list[Info]:
    """The sessions in a folder, newest first. What is no session is left out."""
    found = []
    for folder in sorted(sessions.glob("*/")) if sessions.is_dir() else []:
        if (folder / EVENTS).is_file():
            with suppress(UserError):
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


def request(folder: Path, act: str, arm: str = "") -> None:
    """Ask the sweep that writes this session to do something: one line appended to control.jsonl."""
    line = json.dumps({"request": act, "arm": arm, "wall": time.time()}) + "\n"
    file = os.open(folder / CONTROL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def requests(folder: Path, offset: int) -> Iterator[e.Control]:
    """Requests from a byte offset of control.jsonl on, whole lines only; what is none is skipped."""
    try:
        with open(folder / CONTROL, "rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return
    for line in data.split(b"\n")[:-1]:
        offset += len(line) + 1
        with suppress(ValueError, KeyError, AttributeError, TypeError):
            found: Any = json.loads(line)
            act, arm = clean(str(found["request"]), 40), clean(str(found.get("arm", "")), 80)
            yield e.Control(request=act, arm=arm, offset=offset)


def part(folder: Path, kind: str, name: str) -> Path:
    """Where a file of the session lies: `kind` is raw, stderr or snapshots. The name cannot leave the folder."""
    return folder / kind / re.sub(r"[^A-Za-z0-9_.+-]", "_", name).lstrip(".")


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
    """What somebody needs to know to repeat the session: versions, machine, settings, and every GGUF by sha256."""
    files = [arm.file for arm in state.arms.values() if arm.file is not None]
    return {
        "schema": e.SCHEMA,
        "model": state.model,
        "opened": state.wall,
        "build": e.plain(state.build) if state.build else None,
        "host": e.plain(state.host) if state.host else None,
        "settings": e.plain(state.settings),
        "files": [
            {"arm": file.arm, "quant": file.quant, "file": file.file, "bytes": file.bytes, "sha256": file.sha256,
             "imatrix": file.imatrix, "tensor_types": file.tensor_types}
            for file in files
        ],
    }


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Replace manifest.json whole."""
    temporary = folder / (MANIFEST + ".new")
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, folder / MANIFEST)

"""What holds a session together: its log's lines, key frames, manifest, and the files that it names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from quanttui import events as e
from quanttui import session
from quanttui import state as fold
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import header
from quanttui.verify.figure import Figure, Lacking, lacking, texts
from quanttui.verify.log import Log
from quanttui.verify.raw import Session

_BLOCK = 1 << 22


def of_log(log: Log) -> Iterator[Figure]:
    """Whether all lines are there, in order."""
    told = f"events 0 to {log.last}" if log.count else "no events"
    numbered = f"{log.count} events" + (f", some missing after {log.gaps[0]}" if log.gaps else " in order")
    verdict = "same" if log.count == log.last + 1 and not log.gaps else "differs"
    yield Figure("session", "lines of the log", told, numbered, verdict, session.EVENTS)
    if log.damaged:
        why = Lacking(f"line {log.damaged[0]} of {session.EVENTS} is no event", damaged=True)
        yield lacking("session", "damaged lines", f"{len(log.damaged)} lines", why)
    if log.torn:
        why = Lacking(f"the last line of {session.EVENTS} is cut off, as a crash leaves it; it is read by nobody")
        yield lacking("session", "last line", f"{log.torn} bytes", why)
    if log.unknown:
        why = Lacking("a newer quanttui wrote them")
        yield lacking("session", "events", f"{log.unknown} unknown events", why)


def of_frames(folder: Path) -> Iterator[Figure]:
    """Whether each key frame is the state that a fresh fold of the log comes to at its place."""
    frames = {frame.offset: frame for frame in session.frames(folder)}
    path = folder / session.FRAMES
    if not frames:
        if path.exists() and path.stat().st_size:
            yield lacking("session", "key frames", "some", Lacking(f"those in {path.name} are of another version"))
        return
    state, reader, told, found = fold.State(), session.Reader(folder), [], []
    try:
        for event in reader.events():
            state.apply(event)
            if (frame := frames.get(reader.offset)) is not None:
                recorded, fresh = _framed(path, frame, state)
                told.append(recorded)
                found.append(fresh)
    finally:
        reader.close()
    if len(told) < len(frames):
        told.append(f"{len(frames) - len(told)} frames lie at no line's end")
    names = [f"frame {number}" for number in range(len(told))]
    yield texts("session", "key frames", told, found, f"a fresh fold of {session.EVENTS}", names)


def _framed(path: Path, frame: session.Frame, fresh: fold.State) -> tuple[str, str]:
    """The digests of a key frame's state, that of nothing where it is damaged, and of what a fresh fold comes to."""
    try:
        recorded = session.read_frame(path, frame)
    except (OSError, ValueError):
        return _digest(b""), _digest(fold.encode(fresh))
    told, found = fold.encode(recorded), fold.encode(fresh)
    if told != found:  # the same all the same, where another zlib packed it
        told, found = fold.canonical(recorded), fold.canonical(fresh)
    return _digest(told), _digest(found)


def _digest(encoded: bytes) -> str:
    return hashlib.sha256(encoded).hexdigest()[:16]


# --- the manifest ---------------------------------------------------------------------------------------------------


def of_manifest(known: Session) -> Iterator[Figure]:
    """Whether the manifest says what the log says: versions, machine, settings, and each file's digest."""
    log, writer = known.log, known.log.writer
    try:
        told = _manifest(known.folder)
    except Lacking as why:
        yield lacking("session", session.MANIFEST, "", why)
        return
    if writer is None:
        return
    source = f"{session.EVENTS} against {session.MANIFEST}"
    yield _same("model", str(told.get("model", "")), log.model, source)
    opened = told.get("opened")
    yield _same("opened", f"{opened:.6f}" if isinstance(opened, float) else "", f"{writer.wall - writer.t:.6f}", source)
    settings = _settings(told.get("settings"), log)
    for name, ours in (("host", writer.host), ("build", writer.build), ("settings", writer.settings)):
        one = settings if name == "settings" else _struct(told.get(name), type(ours))
        yield texts("session", name, [_encoded(one)], [_encoded(ours)], source)
    listed = told.get("files")
    each = {str(one.get("arm")): one for one in listed if isinstance(one, dict)} if isinstance(listed, list) else {}
    for arm, file in log.files.items():
        yield _file(arm, each.get(arm), file, source)


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / session.MANIFEST
    try:
        told = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise Lacking(f"{path.name} is missing") from None
    except (OSError, ValueError, RecursionError):
        raise Lacking(f"{path.name} cannot be read", damaged=True) from None
    if not isinstance(told, dict):
        raise Lacking(f"{path.name} is no object", damaged=True)
    return told


def _same(what: str, told: str, found: str, source: str) -> Figure:
    return texts("session", what, [told], [found], source)


def _struct(told: Any, kind: type) -> msgspec.Struct | None:
    """An older manifest has fewer keys: those it lacks have their defaults."""
    try:
        made: msgspec.Struct = msgspec.convert(told, kind)
    except msgspec.ValidationError:
        return None
    return made


def _settings(told: Any, log: Log) -> msgspec.Struct | None:
    """The manifest's, with the tolerance of the log where somebody changed that while it ran."""
    made = _struct(told, e.Settings)
    if not isinstance(made, e.Settings) or made.tolerance not in log.tolerances:
        return made
    return msgspec.structs.replace(made, tolerance=log.settings.tolerance)


def _encoded(one: msgspec.Struct | None) -> str:
    """Short, and another where any of its values is another."""
    if one is None:
        return "unreadable"
    return hashlib.sha256(msgspec.json.encode(one, order="deterministic")).hexdigest()[:16]


def _file(arm: str, told: Mapping[str, Any] | None, file: e.ArmStarted, source: str) -> Figure:
    if told is None:
        return lacking(arm, "file", file.sha256[:16], Lacking(f"{session.MANIFEST} does not name it yet"))
    names = ("sha256", "bytes", "quant", "file", "imatrix", "tensor_types")
    recorded, found = [str(told.get(name)) for name in names], [str(getattr(file, name)) for name in names]
    return texts(arm, "file", recorded, found, source, names)


# --- files outside --------------------------------------------------------------------------------------------------


def of_files(log: Log) -> Iterator[Figure]:
    """Each GGUF, the text and the prompts by their SHA-256, those that are still there. Reads all of them."""
    for arm, file in log.files.items():
        if not file.sha256:
            yield lacking(arm, "SHA-256 of its file", "", Lacking("the log has none"))
            continue
        yield _hashed(arm, "SHA-256 of its file", file.sha256, Path(file.file))
    settings = log.settings
    for what, digest, path in (
        ("SHA-256 of the text", settings.text_sha256, settings.text),
        ("SHA-256 of the prompts", settings.prompts_sha256, settings.prompts),
    ):
        if digest and path:
            yield _hashed("session", what, digest, Path(path))


def _hashed(about: str, what: str, told: str, path: Path) -> Figure:
    """A file's digest, of each part where it is a split GGUF, comma between."""
    try:
        parts = header.read(path).files if "," in told else (path,)
        found = ",".join(_sha256(part) for part in parts)
    except FileNotFoundError:
        return lacking(about, what, told, Lacking(f"{clean(str(path), 120)} is not there any more"))
    except (OSError, UserError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        return lacking(about, what, told, Lacking(f"{clean(str(path), 120)}: {said}", damaged=True))
    return texts(about, what, [told], [found], clean(str(path), 120))


def _sha256(path: Path) -> str:
    made = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            made.update(block)
    return made.hexdigest()

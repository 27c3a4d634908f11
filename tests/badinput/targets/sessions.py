"""A session's folder as somebody else may have left it: log, key frames, manifest, rows, requests, the wire."""

from __future__ import annotations

import io
import json
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from quanttui import events as e
from quanttui import flags, session, summary, verify
from quanttui import frames as key_frames
from quanttui import state as fold
from quanttui.errors import UserError
from quanttui.remote import mirror, relay, wire
from quanttui.remote.target import Target as There
from quanttui.report import formats
from quanttui.sweep import requests
from quanttui.transport import Cursor
from quanttui.tui import view
from quanttui.tui.parts import Own

from ... import builders
from ..structures import WORDS, encoded, keyed, of_type
from ..target import Target, check, finite, numbers, printable, put, strict_json

FORMS = ("text", "md", "json", "csv", "html", "llama-bench", "llama-bench-jsonl")
ARMS = ("F16", "Q8_0", "Q4_K_M")


@lru_cache(maxsize=1)
def logs() -> tuple[bytes, ...]:
    """Small sessions: one whole, one with a failure and answers, one that was resumed and is not over."""
    small: dict[str, Any] = {"tokens": 3, "repetitions": 2, "chunks": 3}
    whole = builders.events(
        builders.Arm("F16", ppl=8.0, **small),
        builders.Arm("Q4_K_M", ppl=8.3, kld=0.02, swap=0.02, watts=20.0, kernels={"Q4_K": 20.0}, after=30.0, **small),
    )
    failed = builders.events(
        builders.Arm("Q8_0", answers={"a": ("Paris", True), "b": ("no", False)}, again=(16.0,), **small),
        builders.Arm("Q4_K_M", fails="oom", error="out of memory", stderr=("killed",), **small),
        builders.Arm("Q2_K", planned_only=True),
        closed=None,
    )
    gpu = {"gpu0.util": 50.0, "gpu0.power": 100.0, "gpu0.mem_used": 1e9, "gpu0.energy": 5.0, "gpu0.reasons": 8.0}
    device = builders.events(builders.Arm("Q8_0", gpu=gpu, gpu_before={"gpu0.mem_used": 1e8}, gpu_layers=23, **small))
    return tuple(b"".join(map(e.encode, each)) for each in (whole, failed, device))


def _read(data: bytes, folder: Path) -> None:
    """All that is made of a log, and that the log's readers agree on what is in it."""
    log = put(folder, session.EVENTS, data)
    (folder / session.FRAMES).unlink(missing_ok=True)
    known, dropped = _events(data)
    reader = session.Reader(folder)
    found = list(reader.events())
    reader.close()
    check(found == known and reader.dropped == dropped, "the log's whole lines are not what was read")
    check(reader.offset == data.rfind(b"\n") + 1, "the reader does not stand at the end of the last whole line")
    check(session.end(folder) >= 0, "the end lies before the beginning")
    for event in found:
        if isinstance(event, e.Event):
            check(e.decode(e.encode(event)) == event, f"an event is not what it says: {event}")
    state = session.load(folder)
    check(fold.canonical(state) == fold.canonical(fold.fold(known)), "the state is not what the events make")
    check(fold.canonical(fold.decode(fold.encode(state))) == fold.canonical(state), "a key frame is not its state")
    printable(session.info(folder).model, "the list")
    _shown(state, data, folder, Random(zlib.crc32(data)))
    check(log.read_bytes() == data, "reading has changed the log")


def _events(data: bytes) -> tuple[list[e.Event | e.Unknown], int]:
    found, dropped = [], 0
    for line in data.split(b"\n")[:-1]:
        if line:
            try:
                found.append(e.decode(line))
            except ValueError:
                dropped += 1
    return found, dropped


def _shown(state: fold.State, data: bytes, folder: Path, rng: Random) -> None:
    """A report in two of its forms, the screen's view, and the flags; now and then every figure verified."""
    over = rng.random() < 0.5
    for form in rng.sample(FORMS, 2):
        text = formats.write(form, state, over, folder, ascii=rng.random() < 0.1)
        printable(text.replace("\r\n", "\n") if form == "csv" else text, f"the report as {form}")
        if form in ("json", "llama-bench"):
            finite(strict_json(text, f"the report as {form}"), f"the report as {form}")
        elif form != "llama-bench-jsonl":
            numbers(text, f"the report as {form}", data)
    found = summary.summarize(state, over)
    shown = view.of(state, found, view.charts(state, found, 40), Cursor(), Own(), over=over)
    # The name of the quant that is looked at is a key, and shown by its row.
    text = msgspec.json.encode(msgspec.structs.replace(shown, selected="")).decode()
    printable(text, "the view")
    numbers(text, "the view", data)
    for flag in flags.of(state, found):
        printable(flag.text, "a flag", "")
    if rng.random() < 0.3:
        for figure in verify.verify(folder):
            printable(verify.line(figure), "a verified figure", "")


def _event(kinds: Sequence[type[e.Event]]) -> SearchStrategy[dict[str, Any]]:
    return st.one_of([of_type(kind) for kind in kinds])


KNOWN: tuple[type[e.Event], ...] = e.Known.__args__  # type: ignore[attr-defined]


def _placed(made: list[dict[str, Any]], whole: bool, at: float) -> bytes:
    """Made-up events amid those of a session, about its quants."""
    rng = Random(at)
    for one in made:
        if "arm" in one and rng.random() < 0.8:
            one["arm"] = rng.choice(ARMS)
        if isinstance(one.get("unit"), dict):
            one["unit"] |= {
                "arm": rng.choice(ARMS),
                "kind": rng.choice(("prompt", "decode", "perplexity", "task", "anchor")),
            }
        if rng.random() < 0.7:
            one["t"], one["n"] = 1000 * at, int(1000 * at)
    lines = logs()[0].split(b"\n")[:-1] if whole else []
    place = int(at * len(lines))
    return b"\n".join([*lines[:place], *map(encoded, made), *lines[place:], b""])


STRUCTURES = st.builds(_placed, st.lists(_event(KNOWN), min_size=1, max_size=4), st.booleans(), st.floats(0, 1))


# --- key frames -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _frames() -> tuple[bytes, ...]:
    """Key frames of the first session, by hand: one amid it, one at its end, both."""
    data = logs()[0]
    lines, found = data.split(b"\n"), []
    places = [sum(len(line) + 1 for line in lines[:count]) for count in (len(lines) // 2, len(lines) - 1)]
    with tempfile.TemporaryDirectory() as name:
        for number, chosen in enumerate((places[:1], places[1:], places)):
            frames = key_frames.Appender(Path(name) / str(number))
            for offset in chosen:
                frames.append(offset, frames.take(fold.fold(_events(data[:offset])[0])))
            found.append(frames.path.read_bytes())
    return tuple(found)


def _framed(data: bytes, folder: Path) -> None:
    """Whatever lies in frames.idx, the state is that of the log, for readers and for the next writer."""
    put(folder, session.EVENTS, logs()[0])
    put(folder, session.FRAMES, data)
    whole = fold.canonical(fold.fold(_events(logs()[0])[0]))
    check(fold.canonical(session.load(folder)) == whole, "the state by way of the key frames is not the log's")
    writer = session.Writer(folder)
    try:
        check(fold.canonical(writer.state) == whole, "the next writer's state is not the log's")
    finally:
        writer.close()
    check((folder / session.EVENTS).read_bytes() == logs()[0], "the log has changed")
    check(fold.canonical(session.load(folder)) == whole, "the state by way of the new key frames is not the log's")


def _framing(offset: int, t: int, length: int | None, body: bytes, packed: bool) -> bytes:
    body = zlib.compress(body) if packed else body
    magic = fold.layout()
    return (
        magic + struct.pack("<QQI", offset % 2**64, t % 2**64, (len(body) if length is None else length) % 2**32) + body
    )


FRAMES = st.builds(
    _framing,
    st.integers(0, 2**64 - 1) | st.integers(0, 5000),
    st.integers(0, 2**64 - 1),
    st.none() | st.integers(0, 2**32 - 1),
    st.binary(max_size=60) | st.sampled_from(_frames()),
    st.booleans(),
)


# --- the files beside the log ---------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _beside() -> tuple[bytes, ...]:
    """Which file, a NUL, and what is in it."""
    state = fold.fold(_events(logs()[1])[0])
    manifest = json.dumps(session.manifest(state)).encode()
    there = msgspec.json.encode(session.Origin("box", "s", "/there/s", "k", True, 1.0, 5))
    items = b'{"unit": "u", "answer": "Paris", "asked": {"id": "a", "prompt": "p", "check": {"exact": "Paris"}}}\n' * 2
    rows = np.arange(300, dtype="<f8").tobytes()
    named = (
        (session.MANIFEST, manifest),
        (session.REMOTE, there),
        ("raw/Q8_0.items.jsonl", items),
        ("raw/Q8_0.nll", rows),
        ("raw/Q8_0.kld", rows * 4),
    )
    return tuple(name.encode() + b"\0" + data for name, data in named)


def _with_file(data: bytes, folder: Path) -> None:
    """A session is verified, listed and reported with any manifest, origin and raw files."""
    name, _, content = data.partition(b"\0")
    shutil.rmtree(folder / "s", ignore_errors=True)
    (folder / "s" / "raw").mkdir(parents=True)
    put(folder / "s", session.EVENTS, logs()[1])
    known = [one.partition(b"\0")[0] for one in _beside()]
    (folder / "s" / (name if name in known else known[0]).decode()).write_bytes(content)
    for figure in verify.verify(folder / "s"):
        printable(verify.line(figure), "a verified figure", "")
        check(figure.verdict in ("same", "differs", "missing", "unreadable"), f"verdict {figure.verdict}")
    check(session.info(folder / "s").state in ("running", "interrupted", "done"), "a state of the session")
    printable(formats.write("text", session.load(folder / "s"), True, folder / "s"), "the report")


BESIDE = st.builds(
    lambda seed, content: seed.partition(b"\0")[0] + b"\0" + content,
    st.sampled_from(_beside()),
    of_type(dict[str, Any]).map(encoded) | st.binary(max_size=80),
)


# --- requests -------------------------------------------------------------------------------------------------------

ASKED = tuple(
    b"".join(
        json.dumps({"request": act, "arm": arm, "value": value, "wall": 1.0}).encode() + b"\n"
        for act, arm, value in each
    )
    for each in (
        (("skip", "Q4_K_M", ""), ("tolerance", "", "2 %"), ("pause", "", "")),
        (("rerun", "F16", ""), ("stop", "", ""), ("resume", "", ""), ("leave", "", "")),
        (("tolerance", "", "0.5"),),
    )
)


def _asked(data: bytes, folder: Path) -> None:
    """Each whole line comes back once, judged, and changes the state only where it is not refused."""
    put(folder, session.CONTROL, data)
    found, state = list(session.requests(folder, 0)), fold.fold(_events(logs()[1])[0])
    if len(data) < 1 << 20:
        whole = sum(bool(line) for line in data.split(b"\n")[:-1])
        check(len(found) == whole, f"{len(found)} requests in {whole} lines")
    ends = [one.offset for one in found]
    check(ends == sorted(set(ends)), "places of requests do not grow")
    check(all(data[end - 1 : end] == b"\n" for end in ends if len(data) < 1 << 20), "a request ends amid a line")
    for one in found:
        for text in (one.request, one.arm, one.value, one.refused):
            printable(text, "a request", "")
        judged = requests.judged(one, state, late=bool(one.offset % 2))
        check(judged.refused or judged.request in requests.KNOWN, f"{judged.request} is no request")
        state.apply(msgspec.structs.replace(judged, n=state.n + 1, t=state.t))
        check(e.decode(e.encode(judged)) == judged, "a request is not what it says")
    check(0 < state.settings.tolerance < 1, f"the tolerance is {state.settings.tolerance}")


ASKING = st.lists(
    keyed(
        {
            "request": st.sampled_from(requests.KNOWN) | WORDS,
            "arm": st.sampled_from(ARMS) | WORDS,
            "value": WORDS | st.floats() | st.integers(),
        }
    ),
    max_size=6,
).map(lambda made: b"".join(encoded(one) + b"\n" for one in made))


# --- the wire -------------------------------------------------------------------------------------------------------


def _relayed(data: bytes, folder: Path) -> None:
    """A relay that is told anything sends the log as it is, and leaves requests once each."""
    put(folder, session.EVENTS, logs()[0])
    (folder / session.CONTROL).unlink(missing_ok=True)
    sink = io.BytesIO()
    relay.serve(folder, io.BytesIO(data), sink, poll=0.001)
    sent, place = sink.getvalue(), None
    while sent:
        line, _, sent = sent.partition(b"\n")
        said = wire.of_relay(line)
        if isinstance(said, wire.Piece):
            piece, sent = sent[: said.size], sent[said.size :]
            check(
                place in (None, said.offset) and piece == logs()[0][said.offset : said.offset + said.size],
                "another log",
            )
            place = said.offset + said.size
    left = list(session.requests(folder, 0))
    asks = _decoded(data.split(b"\n")[1:], wire.of_mirror)
    check(len(left) <= sum(isinstance(one, wire.Ask) for one in asks), "more requests than were asked")
    check(not any(one.refused for one in left), "a request that is none")


def _decoded(lines: Sequence[bytes], how: Any) -> list[Any]:
    found = []
    for line in lines:
        with suppress(ValueError, RecursionError):
            found.append(how(line))
    return found


TOLD = tuple(
    b"".join(wire.encode(one) for one in each)
    for each in (
        (wire.From(offset=0), wire.Ask(at=10, via="v:10", request="skip", arm="F16")),
        (wire.From(offset=0), *(wire.Ask(at=at, via="v", request="pause") for at in (1, 2, 3))),
        (wire.From(offset=logs()[0].index(b"\n") + 1),),
    )
)
TELLING = st.lists(of_type(wire.From) | of_type(wire.Ask), max_size=4).map(
    lambda made: b"".join(encoded(one) + b"\n" for one in made)
)


@lru_cache(maxsize=1)
def _sent() -> tuple[bytes, ...]:
    """What a relay says of a small log, to its end."""
    log = b"\n".join(logs()[0].split(b"\n")[:5]) + b"\n"
    hello = wire.encode(
        wire.Hello(protocol=wire.PROTOCOL, session="s", folder="/s", key="k", size=len(log), alive=True, wall=1.0)
    )
    half = log.index(b"\n", len(log) // 2) + 1
    pieces = b"".join(
        wire.encode(wire.Piece(offset=begin, size=end - begin, crc=zlib.crc32(log[begin:end]))) + log[begin:end]
        for begin, end in ((0, half), (half, len(log)))
    )
    beat = wire.encode(wire.Beat(alive=False, whole=True, over=True, wall=2.0, age=1.0))
    return hello + pieces + beat, b"Welcome!\n" + hello + beat + pieces + wire.encode(wire.Took(at=3))


def _mirrored(data: bytes, folder: Path) -> None:
    """A mirror that is told anything holds whole lines that were sent, and ends."""
    shutil.rmtree(folder / "cache", ignore_errors=True)
    path = put(folder, "sent", data)
    there = There("host")
    try:
        connection = mirror.Connection([CAT, str(path)])
        try:
            hello = connection.hello()
            kept = mirror.store(folder / "cache", there, hello)
        except BaseException:
            connection.close()
            raise
    except mirror.Broken as broken:
        printable(broken.why, "a reason", "")
        raise UserError(f"case: {broken.why}") from None

    def again(_: There) -> mirror.Connection:
        raise mirror.Broken("that was all", again=False)

    following = mirror.Mirror(there, connection, hello, kept, again, pauses=(0.0,))
    following.start()
    following.fetched.wait(20)
    printable(following.link.words, "the link", "")
    following.stop()
    check(not following.is_alive(), "the mirror does not end")
    found = (kept.folder / session.EVENTS).read_bytes()
    check(kept.folder.resolve().is_relative_to(folder.resolve()), f"the mirror lies at {kept.folder}")
    check(not found or found.endswith(b"\n"), "the mirror has a torn line")
    check(all(line in data for line in found.split(b"\n")), "the mirror has what was never sent")


CAT = shutil.which("cat") or sys.executable
SENDING = st.lists(
    (of_type(wire.Hello) | of_type(wire.Piece) | of_type(wire.Beat) | of_type(wire.Took)).map(encoded)
    | st.binary(max_size=30),
    max_size=6,
).map(lambda made: b"".join(one + b"\n" for one in made))

WORDS_OF_LOGS = tuple(f'"event":"{kind.__struct_config__.tag}"'.encode() for kind in KNOWN)

TARGETS = (
    Target(
        "session-log",
        logs,
        _read,
        "lines",
        STRUCTURES,
        (
            "quanttui.session",
            "quanttui.state",
            "quanttui.summary",
            "quanttui.report.text",
            "quanttui.diagnosis.verdicts",
            "quanttui.diagnosis.windows",
            "quanttui.tui.view",
            "quanttui.tui.panels",
            "quanttui.diagnosis.roofline",
        ),
        WORDS_OF_LOGS,
        ("events.jsonl", "badinput-"),
        share=1.0,
    ),
    Target("frames.idx", _frames, _framed, "bytes", FRAMES, ("quanttui.frames", "quanttui.session"), share=0.5),
    Target(
        "session-files",
        _beside,
        _with_file,
        "text",
        BESIDE,
        ("quanttui.verify.whole", "quanttui.verify.answers", "quanttui.verify.raw", "quanttui.session"),
        share=0.4,
    ),
    Target(
        "control", lambda: ASKED, _asked, "lines", ASKING, ("quanttui.session", "quanttui.sweep.requests"), share=1.5
    ),
    Target(
        "relay",
        lambda: TOLD,
        _relayed,
        "lines",
        TELLING,
        ("quanttui.remote.relay", "quanttui.remote.wire"),
        names=("relay",),
        share=0.5,
    ),
    Target("mirror", _sent, _mirrored, "lines", SENDING, ("quanttui.remote.mirror", "quanttui.remote.wire"), share=0.2),
)

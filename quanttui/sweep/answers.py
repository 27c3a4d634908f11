"""An answer of an engine as the session keeps it: judged, a line in raw/, and an event. Knows no schedule."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from quanttui import events as e
from quanttui import session
from quanttui.engine import protocol
from quanttui.measure.tasks import Item, checks

STEP = 256
"""Contexts are made in multiples of this many tokens."""


def given(item: Item) -> protocol.Given:
    """The item's prompt as an engine takes it."""
    return protocol.Given(text=item.prompt, messages=tuple((one.role, one.content) for one in item.messages))


def context(items: Sequence[Item], rendered: protocol.Rendered, max_tokens: int) -> int:
    """Tokens of context that hold every item with its answer: no more than the model was trained for."""
    longest = max(
        tokens + (item.max_tokens or max_tokens) for item, tokens in zip(items, rendered.tokens, strict=True)
    )
    wanted = -(-longest // STEP) * STEP
    return min(wanted, rendered.most) if rendered.most else wanted


def record(folder: Path, unit: e.Unit, item: Item, items: int, answer: protocol.Generated) -> e.Item:
    """Judge an answer and write it down whole. Returns what the log says of it; `items` is how many its task has.

    Raises:
        OSError: the disk is full; the file ends with its last whole line.
    """
    answered = answer.stopped != "context"
    correct = checks.holds(item.check, answer.text) if item.check and answered else None
    expected = checks.words(item.check) if item.check else ""
    digest = hashlib.sha256(answer.prompt.encode("utf-8", "surrogatepass")).hexdigest()
    path = session.part(folder, "raw", f"{unit.arm}.items.jsonl")
    line = {
        "unit": unit.id, "task": unit.task, "item": unit.item, "prompt": answer.prompt, "prompt_sha256": digest,
        "form": answer.form, "answer": answer.text, "expected": expected, "correct": correct, "stopped": answer.stopped,
        "tokens": answer.tokens, "prompt_tokens": answer.prompt_tokens, "ns": answer.ns,
    }  # fmt: skip
    return e.Item(
        unit=unit,
        items=items,
        prompt=digest,
        form=answer.form,
        answer=answer.text[: e.ANSWER],
        stopped=answer.stopped,
        tokens=answer.tokens,
        prompt_tokens=answer.prompt_tokens,
        at=answer.at,
        ns=answer.ns,
        correct=correct,
        expected=expected[: e.ANSWER],
        file=str(path.relative_to(folder)),
        offset=_append(path, msgspec.json.encode(line) + b"\n"),
    )


def _append(path: Path, line: bytes) -> int:
    """Add a line in one write, after the end of one that a crash tore; its byte offset."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        size = os.fstat(file).st_size
        torn = size > 0 and os.pread(file, 1, size - 1) != b"\n"
        whole = b"\n" + line if torn else line
        try:
            if os.write(file, whole) != len(whole):
                raise OSError(28, os.strerror(28))
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(file, size)
            raise OSError(error.errno, error.strerror, str(path)) from None
        return size + torn
    finally:
        os.close(file)

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
from quanttui.measure.tasks.judge import Judged, judge

STEP = 256
"""Contexts are made in multiples of this many tokens."""


TOGETHER = 8
"""At most so many questions are read together: a recurrent model keeps a state for each of them."""

READ = 2048
"""Bytes of text that are read together, beside the beginning that they share: about llama.cpp's n_ubatch in tokens."""

BOUNDARY = 2
"""Tokens: by so many fewer may a prompt share what it begins with, where its next characters belong to the last ones.
"""

Answer = protocol.Generated | protocol.Chosen


def together(items: Sequence[Item]) -> tuple[tuple[Item, ...], ...]:
    """The items in their order, those side by side that are asked at once: questions in a row that begin alike.

    By the items alone: so they are the same for every arm, and whatever is recorded already.
    """
    groups: list[list[Item]] = []
    read = 0
    for item in items:
        size = len(item.prompt.encode("utf-8", "replace")) - len(item.prefix.encode("utf-8", "replace"))
        read += size
        if not groups or not _alike(groups[-1][0], item) or len(groups[-1]) == TOGETHER or read > READ:
            groups.append([])
            read = size
        groups[-1].append(item)
    return tuple(map(tuple, groups))


def _alike(one: Item, other: Item) -> bool:
    """Whether two items are questions that begin alike."""
    are_questions = all(each.choices and each.prompt for each in (one, other))
    return are_questions and one.prefix == other.prefix


def given(item: Item, thinking: bool | None = None) -> protocol.Given:
    """The item's prompt as an engine takes it, with how its template's switch is set."""
    messages = tuple((one.role, one.content) for one in item.messages)
    return protocol.Given(text=item.prompt, messages=messages, prefix=item.prefix, thinking=thinking)


def request(
    asked: Sequence[tuple[e.Unit, Item]], settings: e.Settings, context: int, thinking: bool | None = None
) -> protocol.Generate | protocol.Choose:
    """What an engine is asked about an item, or about those of `together`, in a context of so many tokens."""
    unit, item = asked[0]
    if item.choices:
        questions = tuple(
            protocol.Question(unit=each, prompt=given(one, thinking), choices=one.choices) for each, one in asked
        )
        return protocol.Choose(questions=questions, context=context, chat=settings.chat, together=TOGETHER)
    return protocol.Generate(
        unit=unit,
        prompt=given(item, thinking),
        max_tokens=item.max_tokens or settings.max_tokens,
        stop=item.stop,
        until=item.until,
        thinking_tokens=settings.max_tokens,
        context=context,
        chat=settings.chat,
    )


def context(items: Sequence[Item], rendered: protocol.Rendered, max_tokens: int, chat: bool = False) -> int:
    """Tokens of context that hold every item with its answer, and all those that are asked with it: no more than the
    model was trained for."""
    shared = rendered.shared or (0,) * len(items)
    each = iter(zip(items, rendered.tokens, shared, strict=True))
    longest = max(_asked([next(each) for _ in group], max_tokens, chat) for group in together(items))
    wanted = -(-longest // STEP) * STEP
    return min(wanted, rendered.most) if rendered.most else wanted


def _asked(group: Sequence[tuple[Item, int, int]], max_tokens: int, chat: bool) -> int:
    """Tokens that items hold which are asked at once, given their prompts' and those that these share."""
    begun = group[0][2]
    own = sum(tokens - begun + BOUNDARY for _, tokens, _ in group) - BOUNDARY
    return begun + own + max(_room(item, max_tokens, chat) for item, *_ in group)


def _room(item: Item, max_tokens: int, chat: bool) -> int:
    """At most so many tokens come after an item's prompt: a choice has no more of them than bytes."""
    if item.choices:
        return max(len(text.encode("utf-8", "replace")) for text in item.choices) + 1
    return (item.max_tokens or max_tokens) + (max_tokens if item.messages or chat else 0)


def record(folder: Path, unit: e.Unit, item: Item, items: int, answer: Answer) -> e.Item:
    """Judge an answer and write it down whole. Returns what the log says of it; `items` is how many its task has.

    The line in raw/ has besides what the event says the prompt as the model was given it, the whole answer and what was
    thought before it, and `asked`: the item, which is judged again by itself and `answer` alone. What of the item is
    the prompt, or its beginning, is left out there.

    Raises:
        OSError: the disk is full; the file ends with its last whole line.
    """
    text, thinking = _said(item, answer)
    judged = judge(item, text)
    if answer.stopped == "context":
        judged = Judged(expected=judged.expected)
    digest = hashlib.sha256(answer.prompt.encode("utf-8", "surrogatepass")).hexdigest()
    path = session.part(folder, "raw", f"{unit.arm}.items.jsonl")
    generated = answer if isinstance(answer, protocol.Generated) else None
    told = e.Item(
        unit=unit,
        items=items,
        prompt=digest,
        form=answer.form,
        answer=text[: e.ANSWER],
        stopped=answer.stopped,
        tokens=generated.tokens if generated else 0,
        prompt_tokens=answer.prompt_tokens,
        at=answer.at,
        ns=answer.ns,
        correct=judged.correct,
        expected=judged.expected[: e.ANSWER],
        file=str(path.relative_to(folder)),
        shared=answer.shared,
        group=item.group,
        chosen=judged.chosen,
        logs=answer.logs if isinstance(answer, protocol.Chosen) else (),
        parsed=judged.parsed,
        valid=judged.valid,
        spans=judged.spans,
        thought=generated.thought if generated else None,
        switched=answer.switched,
    )
    return msgspec.structs.replace(told, offset=_append(path, _line(told, item, answer.prompt, text, thinking)))


def _said(item: Item, answer: Answer) -> tuple[str, str]:
    """The answer, of choices the likeliest as it is named, and what was thought before it."""
    if isinstance(answer, protocol.Generated):
        return answer.text, answer.thinking
    logs = answer.logs
    return item.choices[max(range(len(logs)), key=logs.__getitem__)].strip() if logs else "", ""


def _line(told: e.Item, item: Item, prompt: str, answer: str, thinking: str) -> bytes:
    unit = told.unit
    given = "" if item.prompt == prompt else item.prompt
    line = {
        "unit": unit.id, "task": unit.task, "item": unit.item, "group": told.group, "prompt": prompt,
        "prompt_sha256": told.prompt, "form": told.form, "answer": answer, "thinking": thinking,
        "expected": checks.words(item.check) if item.check else "", "correct": told.correct, "chosen": told.chosen,
        "logs": told.logs, "parsed": told.parsed, "valid": told.valid, "spans": told.spans, "stopped": told.stopped,
        "tokens": told.tokens, "prompt_tokens": told.prompt_tokens, "shared": told.shared, "thought": told.thought,
        "switched": told.switched, "ns": told.ns, "asked": msgspec.structs.replace(item, prompt=given, prefix=""),
    }  # fmt: skip
    return msgspec.json.encode(line) + b"\n"


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

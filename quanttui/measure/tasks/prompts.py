"""Prompts in a file, a JSON object a line: one's own, and the shipped sets. Knows no engine.

    {"id": "capital", "prompt": "The capital of France is", "check": {"regex": "Paris"}, "max_tokens": 8}
    {"messages": [{"role": "user", "content": "What is 17 + 25?"}], "check": {"regex": "\\\\b42\\\\b"}}
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.measure.tasks import checks
from quanttui.measure.tasks.files import content
from quanttui.measure.tasks.items import Item, Message, Task

NAME = "prompts"
SHIPPED, TRAPS, STRUCTURED = (Path(__file__).parent / f"{name}.jsonl" for name in (NAME, "traps", "structured"))
MOST_TOKENS = 32_768
ROLES = ("system", "user", "assistant")
ID_LENGTH = 80


class _Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line as it is written."""

    id: str | int | None = None
    prompt: str | None = None
    messages: tuple[Message, ...] | None = None
    check: checks.Check | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    group: str = ""


def read(path: Path, name: str = NAME) -> Task:
    """A file of prompts, checked whole. Its digest is that of its bytes.

    Raises:
        UserError: it cannot be read, or has a line that is no prompt; names file and line.
    """
    data = content(path, "--prompts")
    items: dict[str, Item] = {}
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{clean(str(path))}: line {number}"
        item = _item(line, number, where)
        if item.id in items:
            raise UserError(f"{where}: id {item.id!r} is there already: every prompt needs an id of its own")
        items[item.id] = item
    if not items:
        raise UserError(f'{clean(str(path))}: holds no prompt: write one {{"prompt": "…"}} a line')
    return Task(name=name, items=tuple(items.values()), sha256=hashlib.sha256(data).hexdigest())


def _item(line: bytes, number: int, where: str) -> Item:
    try:
        written = msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f'{where}: {clean(str(error))}: a line is {{"prompt": "…", "check": {{…}}}}') from None
    told = str(number if written.id is None else written.id)
    for wrong in _complaints(written, told):
        raise UserError(f"{where}: {clean(wrong)}")
    return Item(
        id=told,
        prompt=written.prompt or "",
        messages=written.messages or (),
        check=written.check,
        max_tokens=written.max_tokens,
        stop=written.stop,
        group=written.group,
    )


def _complaints(line: _Line, told: str) -> Iterator[str]:
    """What is wrong with a line, the first first."""
    if not told or clean(told, ID_LENGTH) != told:
        yield f"id {told[:ID_LENGTH]!r}: must be one line of up to {ID_LENGTH} printable characters"
    if clean(line.group, ID_LENGTH) != line.group:
        yield f"group {line.group[:ID_LENGTH]!r}: must be one line of up to {ID_LENGTH} printable characters"
    if (line.prompt is None) == (line.messages is None):
        yield "must have either prompt or messages"
    contents = [line.prompt] if line.messages is None else [one.content for one in line.messages]
    if not all(text and text.strip() for text in contents) or not contents:
        yield "is empty: give it some text"
    roles = [one.role for one in line.messages or ()]
    if wrong := [role for role in roles if role not in ROLES]:
        yield f"role {wrong[0]!r}: must be one of {', '.join(ROLES)}"
    if roles and roles[-1] != "user":
        yield "messages: the last one must be the user's"
    if line.max_tokens is not None and not 1 <= line.max_tokens <= MOST_TOKENS:
        yield f"max_tokens {line.max_tokens}: must be from 1 to {MOST_TOKENS}"
    if not all(line.stop):
        yield "stop: an empty string would end every answer at once"
    if line.check is not None:
        try:
            checks.validate(line.check)
        except UserError as error:
            yield f"check: {error}"

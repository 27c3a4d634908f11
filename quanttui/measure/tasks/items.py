"""What a task consists of. Owns the data; knows no file and no engine."""

from __future__ import annotations

import msgspec

from quanttui.measure.tasks.checks import Check


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation. role: system, user, assistant."""

    role: str
    content: str


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, `id` unique in its task: plain text, or messages for a chat template.

    `max_tokens` of the answer, None for as many as the settings say; it ends before any of the strings `stop`.
    """

    id: str
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    check: Check | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Items under one name, in the order in which every arm answers them, with the SHA-256 of their file."""

    name: str
    items: tuple[Item, ...]
    sha256: str

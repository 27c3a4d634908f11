"""What a task consists of. Owns the data; knows no file and no engine."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from quanttui.measure.tasks.checks import Check


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message of a conversation. role: system, user, assistant."""

    role: str
    content: str


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One prompt, `id` unique in its task: plain text, or messages for a chat template.

    `max_tokens` of the answer, None for as many as the settings say; it ends before any of the strings `stop`, and
    right after the first of the letters `until` that stands alone.
    `choices`: texts of which the likeliest after the prompt is the answer; nothing is generated then.
    `prefix`: the beginning of `prompt` that its neighbours in the task have as well, "" where they have none.
    `group`: its subject or kind.
    """

    id: str
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    check: Check | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    group: str = ""
    choices: tuple[str, ...] = ()
    prefix: str = ""
    until: str = ""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """Items under one name, in the order in which every arm answers them, with the SHA-256 of their file, or of
    themselves. `thinking`: how the chat template's switch is set for them, None where it is left alone."""

    name: str
    items: tuple[Item, ...]
    sha256: str
    thinking: bool | None = None


def digest(items: Sequence[Item]) -> str:
    """SHA-256 of items as canonical JSON: the keys in order, without defaults."""
    return hashlib.sha256(msgspec.json.encode(items, order="deterministic")).hexdigest()

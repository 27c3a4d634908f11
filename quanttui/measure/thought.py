"""What of an answer is thinking. Owns the marks by which models tell. Pure: an answer's bytes in, places in it out."""

from __future__ import annotations

from dataclasses import dataclass

MARKS = (
    (b"<think>", b"</think>"),
    (b"[THINK]", b"[/THINK]"),
    (b"<|channel|>", b"<|channel|>final<|message|>"),
)
"""What thinking begins and ends with: Qwen's, DeepSeek's and most others' tags, Mistral's, and the channels of OpenAI's
gpt-oss, of which the last one is the answer."""

SPECIAL = frozenset(
    (b"<think>", b"</think>", b"[THINK]", b"[/THINK]", b"<|channel|>", b"<|message|>", b"<|start|>", b"<|end|>")
)
"""Special tokens that are kept in an answer's text, so that its marks can be found there."""


@dataclass(frozen=True)
class Thought:
    """Thinking is bytes begin … end - 1 of an answer; the answer proper begins at `answer`, None while it thinks."""

    begin: int
    end: int
    answer: int | None


def opened(prompt: str) -> bytes:
    """The mark that a prompt ends with, so that what the model says first is thinking; b"" where there is none."""
    ending = prompt.rstrip().encode("utf-8", "replace")
    return next((begin for begin, _ in MARKS if ending.endswith(begin)), b"")


def find(said: bytes | bytearray, opened: bytes = b"") -> Thought | None:
    """The thinking at the beginning of what a model said, None where it said none. `opened` as the prompt's."""
    lead = len(said) - len(said.lstrip())
    for begin, end in MARKS:
        if said.startswith(end, lead) and begin != opened:
            return Thought(lead, lead, lead + len(end))
        start = lead + len(begin) if said.startswith(begin, lead) else 0 if begin == opened else -1
        if start >= 0:
            close = said.find(end, start)
            return Thought(start, len(said), None) if close < 0 else Thought(start, close, close + len(end))
    return None


def could_begin(said: bytes | bytearray) -> bool:
    """Whether more of it might still make a mark at its beginning."""
    start = bytes(said.lstrip())
    return any(mark.startswith(start) for pair in MARKS for mark in pair)

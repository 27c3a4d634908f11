"""An item's answer, judged. Pure: an item and what was answered in, all that a session keeps of it out."""

from __future__ import annotations

import msgspec

from quanttui.measure.tasks import checks, ner
from quanttui.measure.tasks.items import Item


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an answer.

    `correct` by the item's check, which asks for `expected`; None without one. `chosen`: the letter that was chosen,
    "" where none was, or none is asked for. `parsed`: there is a letter, or JSON, where the check asks for one.
    `valid`: that JSON meets the schema. `spans`: entities that are right, wrong, and missed.
    """

    correct: bool | None = None
    expected: str = ""
    chosen: str = ""
    parsed: bool | None = None
    valid: bool | None = None
    spans: tuple[int, int, int] | None = None


def judge(item: Item, answer: str) -> Judged:
    """What an answer is worth. Where an item's choices were weighed, the answer is the letter of the best."""
    check = item.check
    if check is None:
        return Judged()
    if check.entities is not None:
        return _entities(check, answer)
    correct, expected = checks.holds(check, answer), checks.words(check)
    if check.choice is not None:
        letter = checks.chosen(answer, check.of)
        return Judged(correct=correct, expected=expected, chosen=letter or "", parsed=letter is not None)
    if check.json_path is None and check.schema is None:
        return Judged(correct=correct, expected=expected)
    value = checks.found(answer)
    valid = None if check.schema is None else checks.meets(check.schema, value)
    return Judged(correct=correct, expected=expected, parsed=value is not checks.MISSING, valid=valid)


def _entities(check: checks.Check, answer: str) -> Judged:
    """Right is an answer that names all of them and nothing else."""
    told = ner.score(check.tokens, check.entities or (), answer)
    return Judged(
        correct=told.parsed and told.fp == 0 and told.fn == 0,
        expected=checks.words(check),
        parsed=told.parsed,
        spans=(told.tp, told.fp, told.fn),
    )

"""What tells a right answer from a wrong one. Pure: a check and an answer in, yes or no out."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from quanttui.errors import UserError

LETTERS = "ABCD"
"""Between which a choice is made where the check says nothing else."""

_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d{1,9})\]")
_MISSING = object()


class Check(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of four, against the answer without the blanks around it.

    exact: it is this text. regex: this is found in it (Python's re). choice: the first letter of `of` in it that stands
    alone is this one. json_path: the first JSON object or array in it has `equals` at this path ($.name[0].other).
    """

    exact: str | None = None
    regex: str | None = None
    choice: str | None = None
    of: str = LETTERS
    json_path: str | None = None
    equals: Any = msgspec.UNSET


KINDS = ("exact", "regex", "choice", "json_path")


def validate(check: Check) -> None:
    """See that the check asks for one thing, and that it can be asked.

    Raises:
        UserError: it does not, in words that complete "check: ".
    """
    given = [kind for kind in KINDS if getattr(check, kind) is not None]
    if len(given) != 1:
        raise UserError(f"must have one of {', '.join(KINDS)}, and has {' and '.join(given) or 'none'}")
    if (check.json_path is None) != (check.equals is msgspec.UNSET):
        raise UserError("json_path and equals go together")
    if check.regex is not None:
        try:
            re.compile(check.regex)
        except (re.error, RecursionError, OverflowError) as error:
            raise UserError(f"regex {check.regex!r} is none: {error}") from None
    if check.choice is not None and (len(check.choice) != 1 or check.choice not in check.of):
        raise UserError(f"choice {check.choice!r} must be one of the letters {check.of}")
    if check.json_path is not None:
        _steps(check.json_path)


def holds(check: Check, answer: str) -> bool:
    """Whether the answer is right."""
    said = answer.strip()
    if check.exact is not None:
        return said == check.exact.strip()
    if check.regex is not None:
        return re.search(check.regex, said) is not None
    if check.choice is not None:
        return chosen(said, check.of) == check.choice
    return _same(_at(_json(said), _steps(check.json_path or "$")), check.equals)


def words(check: Check) -> str:
    """What the check asks for, for people."""
    if check.json_path is not None:
        return f"{check.json_path} = {json.dumps(check.equals, ensure_ascii=False)}"
    if check.regex is not None:
        return f"/{check.regex}/"
    return check.exact if check.exact is not None else check.choice or ""


def chosen(answer: str, letters: str = LETTERS) -> str | None:
    """The first of the letters that stands alone in an answer, None where there is none."""
    found = re.search(rf"(?<![^\W_])[{re.escape(letters)}](?![^\W_])", answer)
    return found[0] if found else None


def _json(answer: str) -> Any:
    """The first JSON object or array in an answer, _MISSING where there is none."""
    decoder = json.JSONDecoder()
    for found in re.finditer(r"[\[{]", answer):
        try:
            return decoder.raw_decode(answer, found.start())[0]
        except (ValueError, RecursionError):
            continue
    return _MISSING


def _steps(path: str) -> list[str | int]:
    """The names and places of a path.

    Raises:
        UserError: it is none.
    """
    rest = path.removeprefix("$")
    found = list(_STEP.finditer(rest))
    if not path.startswith("$") or "".join(one[0] for one in found) != rest:
        raise UserError(f"json_path {path!r} is none: write it as $.name[0].other")
    return [int(one[2]) if one[2] else one[1] for one in found]


def _at(value: Any, steps: list[str | int]) -> Any:
    """What lies at a path, _MISSING where nothing does."""
    for step in steps:
        named = isinstance(value, dict) and isinstance(step, str) and step in value
        if not (named or (isinstance(value, list) and isinstance(step, int) and step < len(value))):
            return _MISSING
        value = value[step]
    return value


def _same(a: Any, b: Any) -> bool:
    """Equality as JSON has it: 1 is 1.0, and not true."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)

"""What is given bad input, and what may come of it. Owns no input and no process."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis.strategies import SearchStrategy

from quanttui.errors import UserError

LONGEST = 4000
"""Characters of a line that refuses something."""

NAMED = "case"
"""How the names begin that targets give to files, so that a refusal can be seen to name one."""

_NO_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:nan|inf(?:inity)?)(?![\w.])", re.IGNORECASE)


class Wrong(Exception):
    """A success that is none, or a refusal that does not say what it should."""


@dataclass(frozen=True)
class Target:
    """Something that reads.

    seeds: valid inputs. run: reads one, in a folder of its own; it returns where the input was read, and raises a
    UserError where it was refused, Wrong where what was read is not what is there. Anything else is a traceback.
    form: bytes, text, json (one value), or lines (of JSON). words: what a mutation may put in.
    structures: inputs for hypothesis to make up. watched: modules whose lines guide the search for inputs.
    names: one of these is in each refusal. share: of all cases, beside the others'.
    """

    name: str
    seeds: Callable[[], Sequence[bytes]]
    run: Callable[[bytes, Path], None]
    form: str
    structures: SearchStrategy[bytes]
    watched: tuple[str, ...]
    words: tuple[bytes, ...] = ()
    names: tuple[str, ...] = (NAMED,)
    share: float = 1.0


def refusal(error: UserError, names: Sequence[str]) -> None:
    """See that an error is one line that can be printed and names what it is about.

    Raises:
        Wrong: it is not.
    """
    line = str(error)
    if not line.strip() or not line.isprintable() or len(line) > LONGEST:
        raise Wrong(f"is no printable line: {line[:200]!r}")
    if not any(name in line for name in names):
        raise Wrong(f"names neither file nor key: {line[:200]!r}")


def check(holds: object, what: str) -> None:
    """
    Raises:
        Wrong: it does not hold.
    """
    if not holds:
        raise Wrong(what)


def printable(text: str, what: str, breaks: str = "\n") -> None:
    """See that a text has no character that acts on a terminal, but for breaks.

    Raises:
        Wrong: it has one.
    """
    odd = next((char for char in text if not char.isprintable() and char not in breaks), None)
    check(odd is None, f"{what} has {odd!r}")


def numbers(text: str, what: str, given: bytes) -> None:
    """See that no figure in a text is no number, unless the input itself has such a word.

    Raises:
        Wrong: one is.
    """
    found = _NO_NUMBER.search(text)
    if found and not re.search(rb"nan|inf", given, re.IGNORECASE):
        raise Wrong(f"{what} has {found[0]}: {text[max(0, found.start() - 60) : found.end() + 20]!r}")


def strict_json(text: str, what: str) -> Any:
    """The value of a text that must be JSON, without NaN and Infinity.

    Raises:
        Wrong: it is none.
    """

    def refuse(name: str) -> Any:
        raise Wrong(f"{what} has {name}")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise Wrong(f"{what} is no JSON: {error}") from None


def floats(value: Any) -> Iterator[float]:
    """All floating-point numbers in plain data."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from floats(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from floats(one)


def finite(value: Any, what: str) -> None:
    """See that plain data holds no number that is none.

    Raises:
        Wrong: it does.
    """
    check(all(map(math.isfinite, floats(value))), f"{what} has a number that is none")


def put(folder: Path, name: str, data: bytes) -> Path:
    """A file with just these bytes."""
    path = folder / name
    path.write_bytes(data)
    return path

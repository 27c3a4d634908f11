"""A task's file, read whole or refused in one line. Knows no task."""

from __future__ import annotations

from pathlib import Path

from quanttui.errors import UserError
from quanttui.format import clean, size

MOST_BYTES = 64 << 20


def content(path: Path, flag: str) -> bytes:
    """What a file holds.

    Raises:
        UserError: it cannot be read or is too large; names the file, and the flag by which another can be given.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{clean(str(path))}: cannot be read ({error.strerror}): give another with {flag}") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{clean(str(path))}: is larger than {size(MOST_BYTES)}: give a smaller one with {flag}")
    return data

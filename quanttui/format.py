"""How values are written for people, the same everywhere. Owns the words; knows nothing of sessions or screens."""

from __future__ import annotations

import json
import re
import unicodedata

ABSENT = "·"

_ACTING = re.compile("[\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""What acts on a terminal, or is no text, and is not escaped in JSON anyway."""


def clean(text: str, limit: int = 300) -> str:
    """Foreign text made safe to print: one line, no control, escape or direction-changing character, bounded.

    Every string that came from a file, a process or a person outside goes through here before a terminal sees it.
    """
    text = text[: 4 * limit]
    if not (text.isascii() and text.isprintable()):  # most names are: screens clean hundreds for every frame
        kept = []
        for char in text:
            category = unicodedata.category(char)
            if category in ("Cc", "Zl", "Zp"):
                kept.append(" ")
            elif category not in ("Cf", "Cs", "Co", "Cn"):
                kept.append(char)
        text = "".join(kept)
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"


def json_text(content: object, indent: int | None = 1) -> str:
    """Plain data as JSON, for a program, though a terminal may see it: all foreign text is kept, what would act there
    as an escape."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    return _ACTING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def significant(value: float | None, digits: int = 3) -> str:
    """A number with about `digits` significant digits and no exponent: 0.13, 19.7, 1820."""
    if value is None:
        return ABSENT
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    size = abs(value)
    if size == 0:
        return "0"
    places = digits - 1
    while size >= 10 and places > 0:
        size /= 10
        places -= 1
    while size < 1 and places < 6:
        size *= 10
        places += 1
    return f"{value:.{places}f}"


def gib(size: float | None, digits: int = 3) -> str:
    """Bytes as a figure in GiB, without the unit."""
    return ABSENT if size is None else significant(size / 2**30, digits)


def size(count: float | None) -> str:
    """Bytes with a fitting binary unit: 7.3 MiB, 4.92 GiB."""
    if count is None:
        return ABSENT
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{significant(count)} {unit}"
        count /= 1024
    return f"{significant(count)} TiB"


def duration(seconds: float | None) -> str:
    """A stretch of time: 9s, 6m02s, 1h18m, 2d04h."""
    if seconds is None:
        return ABSENT
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h{minutes:02}m"
    return f"{hours // 24}d{hours % 24:02}h"


def clock(seconds: float) -> str:
    """Session time as 00:41:22."""
    whole = max(0, int(seconds))
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def percent(share: float | None, digits: int = 2) -> str:
    """A share of one as a figure in percent, without the sign: 0.213 is 21."""
    return ABSENT if share is None else significant(share * 100, digits)

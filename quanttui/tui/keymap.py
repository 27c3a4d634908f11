"""Keys of the user's own choice: `keys` of the configuration, checked and joined with the registry's. Pure.

Knows how Textual names keys, for it is told of a key by name; imports nothing of it.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Mapping

from quanttui.errors import UserError
from quanttui.format import clean

ALWAYS = {"leave": ("ctrl+c", "ctrl+z")}
"""Keys that an action keeps whatever is asked for: what a terminal does with them by itself would stop the sweep."""

_NAMED = frozenset(
    (
        *("space", "enter", "tab", "escape", "backspace", "delete", "insert", "home", "end", "pageup", "pagedown"),
        *("up", "down", "left", "right"),
        *(f"f{number}" for number in range(1, 25)),
    )
)
_OTHERWISE = {
    "solidus": "slash", "reverse_solidus": "backslash", "commercial_at": "at", "hyphen_minus": "minus",
    "plus_sign": "plus", "low_line": "underscore",
}  # fmt: skip
"""Textual's names of the signs that it does not call as Unicode does."""


def _name(sign: str) -> str:
    told = re.sub("[ -]", "_", unicodedata.name(sign, "").lower())
    return _OTHERWISE.get(told, told)


_SIGNS = {_name(sign): sign for sign in map(chr, range(33, 127)) if not sign.isalnum()}
"""Textual's name of every sign of ASCII, with the sign."""

_SHOWN = {"left": "←", "right": "→", "up": "↑", "down": "↓", "escape": "esc", **_SIGNS}


def check(asked: Mapping[str, str], default: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The keys of every action, under Textual's names.

    Args:
        asked: an action's id with its keys, divided by commas or blanks: they replace its own.
        default: the registry's keys of every action, by id.

    Raises:
        UserError: no such action, no such key, or one key for two actions.
    """
    keys = dict(default)
    for action, text in asked.items():
        if action not in default:
            near = difflib.get_close_matches(action, default, n=1)
            known = ", ".join(name for name in default if name.isidentifier())
            hint = f"did you mean {near[0]}?" if near else f"there are {known}"
            raise UserError(f"keys.{clean(action, 40)}: no such action: {hint}")
        given = [_key(word, action) for word in re.split(r"[,\s]+", text) if word]
        if not given:
            raise UserError(f"keys.{action}: names no key: give one or more, such as f,space, or leave it out")
        keys[action] = tuple(dict.fromkeys((*given, *ALWAYS.get(action, ()))))
    _apart(keys)
    return keys


def shown(key: str) -> str:
    """A key as it is written for people: `space`, `←`, `?`, `ctrl+x`."""
    lead, last = _split(key)
    return lead + _SHOWN.get(last, last)


def _apart(keys: Mapping[str, tuple[str, ...]]) -> None:
    """One key must not stand for two actions."""
    owner: dict[str, str] = {}
    for action, names in keys.items():
        for key in names:
            other = owner.setdefault(key, action)
            if other != action:
                raise UserError(f"keys: {shown(key)} would be both {other} and {action}: give one of them another key")


def _key(word: str, action: str) -> str:
    """Textual's name of a key: of `?` question_mark, of `ctrl+x` itself.

    Raises:
        UserError: it is none.
    """
    lead, last = _split(word)
    if len(last) == 1:
        last = _name(last) if not last.isalnum() else last.lower() if lead else last
    else:
        last = last.lower()
    if not (len(last) == 1 or last in _NAMED or last in _SIGNS):
        raise UserError(f"keys.{action}: {clean(word, 40)!r} is no key: give f, ?, f5, ctrl+x, shift+tab, space, …")
    return lead + last


def _split(key: str) -> tuple[str, str]:
    """`ctrl+shift+` and the rest. A lone `+` is a key, not a joint."""
    found = re.match(r"(?i)((?:(?:ctrl|shift|alt)\+)*)(.*)", key, re.DOTALL)
    assert found is not None
    return found[1].lower(), found[2]

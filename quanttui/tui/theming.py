"""Themes: TOML files in, palettes and Textual themes out. A bad file becomes a sentence, never a crash.

A theme file holds `name`, `dark`, optionally `ansi` (colours are the terminal's own), and a table `[colours]` with
every key of COLOURS; a key that is left out takes the default theme's colour.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.style import Style
from textual.color import Color, ColorParseError
from textual.theme import BUILTIN_THEMES
from textual.theme import Theme as TextualTheme

from quanttui.format import clean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = "dusk"

COLOURS = {
    "background": "#16181d",
    "surface": "#1e2128",
    "selection": "#272a31",
    "text": "#c8ccd4",
    "strong": "#eceff4",
    "dim": "#7a8190",
    "border": "#3a404c",
    "title": "#9fb3d1",
    "accent": "#7fb4e0",
    "key": "#e0c28a",
    "ok": "#8fc48a",
    "info": "#86b3d9",
    "warn": "#e3b35c",
    "bad": "#ee7777",
    "speed": "#74c7b8",
    "prompt": "#9aa8e8",
    "perplexity": "#c9a2e3",
    "memory": "#7fa9e6",
    "swap": "#e09a6a",
    "bus": "#6fc3d6",
    "gpu": "#a5c96f",
    "power": "#e3c96b",
    "ghost": "#5d6675",
    "weights": "#7fa9e6",
    "kv": "#c9a2e3",
    "other": "#8a93a3",
}
"""Every colour that a theme may set: those of dusk, which stand in for what a theme leaves out."""

BOLD = ("strong", "bad", "title")


class Theme(msgspec.Struct, frozen=True):
    """A theme as read: its colours by role, each `#rrggbb`, a CSS name, or `ansi_…`."""

    name: str
    dark: bool = True
    ansi: bool = False
    colours: dict[str, str] = {}

    def palette(self) -> dict[str, Style]:
        """A style for each role, and for each role with `+`: the same on the background of the selected row."""
        chosen = {role: Color.parse(text) for role, text in (COLOURS | self.colours).items()}
        ground, picked = chosen["background"].rich_color, chosen["selection"].rich_color
        styles = {"": Style(bgcolor=ground), "+": Style(bgcolor=picked)}
        for role, color in chosen.items():
            bold = True if role in BOLD else None
            faint = True if self.ansi and role in ("dim", "ghost", "border") else None
            styles[role] = Style(color=color.rich_color, bgcolor=ground, bold=bold, dim=faint)
            # No background is sure to be seen beside the terminal's own colours; a reversed row is.
            chosen_row = Style(reverse=True, bold=bold) if self.ansi else Style(bgcolor=picked, bold=bold)
            styles[f"{role}+"] = chosen_row if self.ansi else chosen_row + Style(color=color.rich_color)
        if self.ansi:
            styles["+"] = Style(reverse=True)
        return styles

    def textual(self) -> TextualTheme:
        """The theme for Textual itself: what is behind our own sheets."""
        chosen = COLOURS | self.colours
        stock = BUILTIN_THEMES["ansi-dark" if self.dark else "ansi-light"].variables if self.ansi else {}
        return TextualTheme(
            name=self.name,
            primary=chosen["accent"],
            secondary=chosen["info"],
            warning=chosen["warn"],
            error=chosen["bad"],
            success=chosen["ok"],
            accent=chosen["accent"],
            foreground=chosen["text"],
            background=chosen["background"],
            surface=chosen["surface"],
            panel=chosen["surface"],
            dark=self.dark,
            ansi=self.ansi,
            variables=stock | {f"qt-{role}": text for role, text in chosen.items()},
        )


def defaults() -> dict[str, str]:
    """Our own CSS variables with the default theme's colours."""
    return {f"qt-{role}": text for role, text in COLOURS.items()}


def load(folders: Iterable[Path]) -> tuple[dict[str, Theme], list[str]]:
    """All themes of some folders by name, and a sentence for each file that is none.

    A later folder's theme replaces an earlier one's of the same name. The default theme is always there.
    """
    themes, wrong = {DEFAULT: Theme(DEFAULT)}, []
    for folder in folders:
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
            try:
                theme = parse(tomllib.loads(path.read_text(encoding="utf-8")), path.stem)
            except (OSError, UnicodeDecodeError) as error:
                wrong.append(f"{path.name}: cannot be read: {clean(str(error))}")
            except (ValueError, RecursionError) as error:
                wrong.append(f"{path.name}: {clean(str(error))}")
            else:
                themes[theme.name] = theme
    return themes, wrong


def usable(themes: Mapping[str, Theme], colour: str) -> dict[str, Theme]:
    """The themes that a depth of colour can show: at "16" and "none" those of the terminal's own colours, if any.

    Sixteen colours are too few for ours: half of a theme's roles would come out as the same grey. Without colours such
    a theme leaves bold, dim and reverse, where others would be painted in greys.
    """
    plain = {name: theme for name, theme in themes.items() if theme.ansi}
    return plain if plain and colour in ("16", "none") else dict(themes)


def parse(given: Mapping[str, Any], stem: str) -> Theme:
    """A theme from a parsed file called `stem`.

    Raises:
        ValueError: names the key and what is allowed.
    """
    for key in given:
        if key not in ("name", "dark", "ansi", "colours"):
            raise ValueError(f"{key}: no such key: there are name, dark, ansi and [colours]")
    name = given.get("name", stem)
    if not isinstance(name, str) or not name.strip() or clean(name, 40) != name:
        raise ValueError("name: must be a short text")
    for key in ("dark", "ansi"):
        if not isinstance(given.get(key, False), bool):
            raise ValueError(f"{key}: must be true or false")
    colours = given.get("colours", {})
    if not isinstance(colours, dict):
        raise ValueError("colours: must be a table")
    for role, text in colours.items():
        _check(role, text)
    return Theme(name, given.get("dark", True), given.get("ansi", False), dict(colours))


def _check(role: str, text: object) -> None:
    if role not in COLOURS:
        raise ValueError(f"colours.{role}: no such colour: there are {', '.join(COLOURS)}")
    try:
        if not isinstance(text, str):
            raise ColorParseError("not a text")
        Color.parse(text)
    except ColorParseError:
        raise ValueError(f"colours.{role}: must be #rrggbb, a CSS colour's name, or ansi_…") from None

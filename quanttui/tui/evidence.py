"""What a terminal can show, by evidence: glyphs, colours, layout and mouse, each with the reason. Pure; no Textual.

Owns the rules of every `auto`. Each switch stands alone, and what was asked for outranks all evidence.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, MutableMapping

import msgspec

from quanttui.format import clean
from quanttui.tui import layout

COLOURS = ("truecolor", "256", "16", "none")
"""Depths of colour, the most first."""

DRIVER = "TEXTUAL_DRIVER"
"""The variable by which textual-serve, and `quanttui web`, tell an app that a browser is its screen."""

_SYSTEMS = {"truecolor": "truecolor", "256": "256", "16": "standard"}
"""Textual's names of the depths."""

_BARE = ("dumb", "vt100", "vt102", "vt220", "xterm-mono")
"""Terminals without colours, and without any promise about their font."""

_DEEP_TERMS = ("alacritty", "contour", "foot", "ghostty", "kitty", "rio", "wezterm")
_DEEP_PROGRAMS = ("iTerm.app", "WezTerm", "vscode", "ghostty", "rio", "Hyper")
"""What they call themselves in TERM and in TERM_PROGRAM: all of them show 24-bit colours by their own documentation."""

_VTE = 3600
"""VTE shows 24-bit colours from 0.36 on, which it writes as VTE_VERSION=3600."""


class Choice(msgspec.Struct, frozen=True):
    """What is taken, and why."""

    value: str
    why: str


class Detected(msgspec.Struct, frozen=True, kw_only=True):
    """A terminal: whether there is one, its name and size in cells, and what each switch is set to."""

    is_one: bool
    term: str
    size: tuple[int, int]
    ssh: bool
    browser: bool
    glyphs: Choice
    colour: Choice
    layout: Choice
    mouse: Choice


def detect(
    environ: Mapping[str, str],
    encoding: str,
    size: tuple[int, int],
    isatty: bool,
    asked: Mapping[str, str] | None = None,
) -> Detected:
    """Look at a terminal.

    Args:
        encoding: the locale's.
        size: columns and rows.
        asked: what the configuration says for "glyphs", "color", "layout", "mouse"; "auto" or nothing: by evidence.
    """
    asked = {switch: value for switch, value in (asked or {}).items() if value != "auto"}

    def settled(switch: str, found: Choice) -> Choice:
        return Choice(asked[switch], f"asked for; by evidence {found.value}") if switch in asked else found

    return Detected(
        is_one=isatty,
        term=clean(environ.get("TERM", ""), 40),
        size=size,
        ssh=is_remote(environ),
        browser=in_browser(environ),
        glyphs=settled("glyphs", glyphs(environ, encoding)),
        colour=settled("color", colour(environ)),
        layout=form(size, asked.get("layout", "auto")),
        mouse=settled("mouse", mouse(environ)),
    )


def in_browser(environ: Mapping[str, str]) -> bool:
    """Whether a browser is the screen."""
    return environ.get(DRIVER, "").endswith("web_driver:WebDriver")


def is_remote(environ: Mapping[str, str]) -> bool:
    """Whether the terminal is at the other end of an SSH link."""
    return bool(environ.get("SSH_CONNECTION"))


def glyphs(environ: Mapping[str, str], encoding: str) -> Choice:
    """Braille where the locale is UTF-8, but for the Linux console (its font has none) and terminals of old."""
    if in_browser(environ):
        return Choice("braille", "a browser has every sign")
    term = environ.get("TERM", "")
    if term == "linux":
        return Choice("ascii", "the Linux console's font has no braille")
    if term in _BARE:
        return Choice("ascii", f"TERM is {term}")
    try:
        name = codecs.lookup(encoding).name
    except (LookupError, ValueError):
        name = clean(encoding, 20).encode("ascii", "replace").decode() or "unknown"
    if name != "utf-8":
        return Choice("ascii", f"the locale's encoding is {name}")
    return Choice("braille", "the locale's encoding is utf-8")


def colour(environ: Mapping[str, str]) -> Choice:
    """How many colours. SSH passes TERM on and seldom COLORTERM, so that 256 is what most remote screens get.

    NO_COLOR counts where it is not empty (no-color.org).
    """
    term = environ.get("TERM", "").lower()
    if environ.get("NO_COLOR"):
        return Choice("none", "NO_COLOR is set")
    if in_browser(environ):
        return Choice("truecolor", "a browser shows all")
    if environ.get("WT_SESSION"):
        return Choice("truecolor", "Windows Terminal")
    if not term or term in _BARE:
        return Choice("none", f"TERM is {term or 'not set'}")
    if environ.get("STY") and term.startswith("screen"):
        return Choice("256" if "256" in term else "16", "inside GNU screen, which passes no more")
    deep = _truecolor(environ, term)
    if deep:
        return Choice("truecolor", deep)
    if "256" in term:
        return Choice("256", f"TERM is {clean(term, 40)}, COLORTERM does not say truecolor")
    return Choice("16", f"TERM is {clean(term, 40)}")


def _truecolor(environ: Mapping[str, str], term: str) -> str:
    """What shows that the terminal has 24-bit colours, "" where nothing does."""
    said = environ.get("COLORTERM", "").lower()
    if said in ("truecolor", "24bit"):
        return f"COLORTERM is {said}"
    if term.endswith("-direct") or any(name in term for name in _DEEP_TERMS):
        return f"TERM is {clean(term, 40)}"
    if environ.get("TMUX"):  # what the outer terminal left in the environment says nothing about tmux
        return ""
    program, version = environ.get("TERM_PROGRAM", ""), environ.get("VTE_VERSION", "")
    if program in _DEEP_PROGRAMS:
        return f"TERM_PROGRAM is {program}"
    if version.isascii() and version.isdigit() and int(version[:9]) >= _VTE:
        return f"VTE_VERSION is {version[:9]}"
    return "KONSOLE_VERSION is set" if environ.get("KONSOLE_VERSION") else ""


def mouse(environ: Mapping[str, str]) -> Choice:
    """Off over SSH: on a link that loses bytes its reports end up as text in the shell."""
    if in_browser(environ):
        return Choice("on", "a browser has one")
    if is_remote(environ):
        return Choice("off", "over SSH: mouse = on asks for it")
    if environ.get("TERM", "") in ("linux", *_BARE):
        return Choice("off", f"TERM is {environ['TERM']}")
    return Choice("on", "a terminal of this machine")


def form(size: tuple[int, int], asked: str = "auto") -> Choice:
    """The layout that a size has room for, or the one asked for, or the largest below it that fits."""
    found, largest = layout.largest(*size, asked), layout.largest(*size)
    cells = f"{size[0]}x{size[1]}"
    if asked == "auto":
        return Choice(found, f"the largest that fits into {cells}")
    if found == asked:
        return Choice(found, f"asked for; by evidence {largest}")
    return Choice(found, f"{asked} was asked for and does not fit into {cells}")


def settle(chosen: str, environ: MutableMapping[str, str]) -> None:
    """Tell Textual how many colours: it asks the environment when it is imported, and when an app is made.

    Args:
        chosen: one of COLOURS.
    """
    environ.pop("NO_COLOR", None)
    if chosen == "none":
        environ["NO_COLOR"] = "1"
    else:
        environ["TEXTUAL_COLOR_SYSTEM"] = _SYSTEMS[chosen]


def settled(environ: Mapping[str, str]) -> str:
    """What `settle` told it; "truecolor" where it was told nothing."""
    if "NO_COLOR" in environ:
        return "none"
    names = {system: name for name, system in _SYSTEMS.items()}
    return names.get(environ.get("TEXTUAL_COLOR_SYSTEM", ""), "truecolor")

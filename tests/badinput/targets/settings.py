"""Configuration and themes: TOML files, and values from the environment and the command line."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
from hypothesis import strategies as st

from quanttui import config, paths
from quanttui.errors import UserError
from quanttui.tui import theming

from ..structures import TOKENS, WORDS
from ..target import Target, check, printable, put

SHIPPED = b"\n".join(
    line.removeprefix(b"# ") if b"=" in line else line for line in paths.shipped_config().read_bytes().split(b"\n")
)
SOME = b"""quants = ["Q8_0", "Q4_K_M"]
tasks = ["speed", "ppl"]
depth = [0, 4096]
chunks = 40
precision = 1.5
tensor_split = [3.0, 1.0]
kv = ["f16", "q8_0"]
polite = true
sample_hz = 4.0
thresholds = { wall = 0.6, cpu_share = 0.8 }
bandwidth = { cpu = 51.2 }
keys = { freeze = "f space" }
theme = "dusk"
"""


def _right(found: config.Config) -> None:
    """See that each value is one that its key allows, whoever gave it."""
    plain = msgspec.to_builtins(found)
    check(msgspec.convert(plain, config.Config) == found, "a value that its key does not allow")
    for key, value in plain.items():
        every = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
        check(all(math.isfinite(one) for one in every if isinstance(one, float)), f"{key} is no number")
    try:
        config.settings(found)
    except UserError as error:
        check(str(error).startswith("nothing is left"), str(error))


def _toml(data: bytes, folder: Path) -> None:
    _right(config.load(file=put(folder, "case.toml", data), environment={}))


def _given(data: bytes, folder: Path) -> None:
    """Lines KEY=TEXT, as flags and in the environment."""
    text = data.decode("utf-8", "surrogateescape")
    pairs = [line.partition("=") for line in text.split("\n") if line]
    flags = {key: value for key, _, value in pairs if key in config.KEYS}
    variables = {f"QUANTTUI_{key.upper()}": value for key, _, value in pairs if "\0" not in key + value}
    told: UserError | None = None
    for how in ({"flags": flags, "environment": {}}, {"environment": variables}):
        try:
            _right(config.load(file=put(folder, "case.toml", b""), **how))
        except UserError as error:
            told = error
    if told:
        raise told


def _theme(data: bytes, folder: Path) -> None:
    """A file is a theme that can be shown, or there is a sentence about it."""
    put(folder, "case.toml", data)
    themes, wrong = theming.load([folder])
    for theme in themes.values():
        check(theme.palette().keys() >= set(theming.COLOURS), "a palette that lacks a colour")
        theme.textual()
        printable(theme.name, "a theme's name", "")
    check(len(wrong) <= 1 and theming.DEFAULT in themes, "more sentences than files")
    if wrong:
        raise UserError(wrong[0])


_VALUE = st.one_of(
    TOKENS,
    TOKENS.map(lambda one: f'"{one}"'),
    st.lists(TOKENS, max_size=3).map(lambda each: f"[{', '.join(each)}]"),
    st.lists(st.tuples(WORDS, TOKENS), max_size=2).map(
        lambda each: "{" + ", ".join(f"{a} = {b}" for a, b in each) + "}"
    ),
    st.sampled_from(['"auto"', "[]", "{}", "true", "1979-05-27", "0xff", "'x'", '"""x"""', "[[]]"]),
)
LINES = st.lists(st.tuples(st.sampled_from(config.KEYS) | WORDS, _VALUE), max_size=4)
FILES = LINES.map(lambda each: "\n".join(f"{key} = {value}" for key, value in each).encode("utf-8", "surrogatepass"))
VARIABLES = st.lists(st.tuples(st.sampled_from(config.KEYS), TOKENS | _VALUE), max_size=4).map(
    lambda each: "\n".join(f"{key}={value}" for key, value in each).encode("utf-8", "surrogatepass")
)
SHOWN = (
    SOME.replace(b'"', b"")
    .replace(b" = ", b"=")
    .replace(b"[", b"")
    .replace(b"]", b"")
    .replace(b"{ ", b"")
    .replace(b" }", b"")
)
_COLOUR = TOKENS | st.sampled_from(
    [
        "#123456",
        "#12",
        "red",
        "ansi_red",
        "ansi_default",
        "auto 50%",
        "rgb(1,2,3)",
        "hsl(0,0%,0%)",
        "rgba(1,2,3,0.5)",
        "auto",
        "transparent",
        "#12345678",
    ]
)
PALETTES = st.lists(st.tuples(st.sampled_from([*theming.COLOURS]) | WORDS, _COLOUR), max_size=5).map(
    lambda each: ("[colours]\n" + "\n".join(f'{key} = "{value}"' for key, value in each)).encode(
        "utf-8", "surrogatepass"
    )
)
THEMES = tuple(path.read_bytes() for path in sorted(paths.themes()[0].glob("*.toml")))
CONFIG_WORDS = tuple(f"{key} = ".encode() for key in config.KEYS)

TARGETS = (
    Target(
        "config.toml",
        lambda: (SHIPPED, SOME),
        _toml,
        "text",
        FILES,
        ("quanttui.config", "quanttui.quants"),
        CONFIG_WORDS,
        names=("case.toml",),
        share=2.0,
    ),
    Target(
        "settings",
        lambda: (SHOWN,),
        _given,
        "text",
        VARIABLES,
        ("quanttui.config",),
        tuple(f"{key}=".encode() for key in config.KEYS),
        names=("--", "QUANTTUI_"),
        share=1.5,
    ),
    Target(
        "theme",
        lambda: THEMES,
        _theme,
        "text",
        PALETTES | FILES,
        ("quanttui.tui.theming",),
        (b"auto 50%", b"hsl(1,2%,3%)", b"ansi_red", b"ansi = true"),
        names=("case.toml",),
        share=1.5,
    ),
)

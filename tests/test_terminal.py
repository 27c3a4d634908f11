"""Every terminal: what is detected and why, forms, themes that can be read and told apart, and the user's keys."""

from __future__ import annotations

import itertools
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.color import Color as Shade
from rich.color import ColorSystem
from textual.color import Color
from textual.keys import _normalize_key_list

from quanttui import paths
from quanttui.doctor import terminal
from quanttui.errors import UserError
from quanttui.tui import evidence, glyphs, keymap, keys, layout, theming
from quanttui.tui.evidence import Detected

# --- evidence -------------------------------------------------------------------------------------------------------

NAMES = ("TERM", "COLORTERM", "TERM_PROGRAM", "VTE_VERSION", "KONSOLE_VERSION", "WT_SESSION", "STY", "TMUX", "NO_COLOR",
         "SSH_CONNECTION", "TEXTUAL_DRIVER")  # fmt: skip
ENVIRONS = st.dictionaries(
    st.sampled_from(NAMES),
    st.text(max_size=12) | st.sampled_from(["xterm-256color", "screen", "linux", "dumb", "truecolor", "7200"]),
)
SIZES = st.tuples(st.integers(1, 400), st.integers(1, 150))
BROWSER = "textual.drivers.web_driver:WebDriver"


def detected(environ: dict[str, str], encoding: str = "UTF-8", **asked: str) -> Detected:
    return evidence.detect(environ, encoding, (120, 40), True, asked)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "xterm-256color", "COLORTERM": "24bit"}, "truecolor"),
        ({"TERM": "xterm-256color"}, "256"),
        ({"TERM": "xterm-256color", "SSH_CONNECTION": "a b c d"}, "256"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/t,1,0"}, "256"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/t,1,0", "TERM_PROGRAM": "WezTerm"}, "256"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/t,1,0", "COLORTERM": "truecolor"}, "truecolor"),
        ({"TERM": "screen-256color", "STY": "1.pts", "COLORTERM": "truecolor"}, "256"),
        ({"TERM": "screen", "STY": "1.pts"}, "16"),
        ({"TERM": "xterm-kitty"}, "truecolor"),
        ({"TERM": "xterm-direct"}, "truecolor"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "truecolor"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, "256"),
        ({"TERM": "xterm-256color", "VTE_VERSION": "7200"}, "truecolor"),
        ({"TERM": "xterm-256color", "VTE_VERSION": "3400"}, "256"),
        ({"TERM": "xterm"}, "16"),
        ({"TERM": "linux"}, "16"),
        ({"TERM": "dumb", "COLORTERM": "truecolor"}, "none"),
        ({}, "none"),
        ({"WT_SESSION": "x"}, "truecolor"),
        ({"TERM": "xterm-256color", "NO_COLOR": "1", "COLORTERM": "truecolor"}, "none"),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, "256"),
        ({"TEXTUAL_DRIVER": BROWSER}, "truecolor"),
        ({"TEXTUAL_DRIVER": BROWSER, "NO_COLOR": "1"}, "none"),
    ],
)
def test_colours_go_by_what_the_terminal_says_of_itself(environ: dict[str, str], expected: str) -> None:
    assert detected(environ).colour.value == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TERM": "xterm"}, "on"),
        ({"TERM": "xterm", "SSH_CONNECTION": "a b c d"}, "off"),
        ({"TERM": "linux"}, "off"),
        ({"TEXTUAL_DRIVER": BROWSER, "SSH_CONNECTION": "a b c d"}, "on"),
    ],
)
def test_the_mouse_is_off_over_ssh_but_not_in_a_browser(environ: dict[str, str], expected: str) -> None:
    assert detected(environ).mouse.value == expected


def test_a_browser_has_braille_whatever_the_servers_locale_and_terminal() -> None:
    assert detected({"TEXTUAL_DRIVER": BROWSER, "TERM": "linux"}, "ascii").glyphs.value == "braille"
    assert glyphs.choose("auto", {"TEXTUAL_DRIVER": BROWSER}, "ascii").name == "braille"


@given(ENVIRONS, st.text(max_size=20), SIZES, st.booleans())
def test_every_environment_gives_values_that_exist_each_with_a_reason_in_plain_ascii_or_none(
    environ: dict[str, str], encoding: str, size: tuple[int, int], isatty: bool
) -> None:
    found = evidence.detect(environ, encoding, size, isatty)
    assert found.glyphs.value in glyphs.NAMES and found.colour.value in evidence.COLOURS
    assert found.layout.value in layout.FORMS and found.mouse.value in ("on", "off")
    assert all(line.isprintable() and line for line in terminal.lines(found))
    assert msgspec.convert(msgspec.to_builtins(found), Detected) == found


@given(ENVIRONS, st.sampled_from(glyphs.NAMES), st.sampled_from(evidence.COLOURS), st.sampled_from(["on", "off"]))
def test_what_was_asked_for_outranks_all_evidence(environ: dict[str, str], set_: str, depth: str, mouse: str) -> None:
    found = detected(environ, glyphs=set_, color=depth, mouse=mouse)
    assert (found.glyphs.value, found.colour.value, found.mouse.value) == (set_, depth, mouse)
    assert detected(environ, glyphs="auto", color="auto", mouse="auto") == detected(environ)


@pytest.mark.parametrize("depth", evidence.COLOURS)
def test_textual_is_told_the_depth_and_can_be_asked_for_it_again(depth: str) -> None:
    environ = {"NO_COLOR": "", "TEXTUAL_COLOR_SYSTEM": "auto"}
    evidence.settle(depth, environ)
    assert evidence.settled(environ) == depth
    assert ("NO_COLOR" in environ) == (depth == "none")


# --- forms ----------------------------------------------------------------------------------------------------------


@given(SIZES, st.sampled_from(["auto", *layout.FORMS]), st.integers(0, 40))
def test_a_form_that_does_not_fit_gives_way_to_the_largest_that_does(
    size: tuple[int, int], asked: str, quants: int
) -> None:
    names = list(layout.FORMS)
    found = layout.largest(*size, asked)
    fitting = [name for name in names if size[0] >= layout.FORMS[name][0] and size[1] >= layout.FORMS[name][1]]
    assert found == (fitting[-1] if asked == "auto" else min(fitting[-1], asked, key=names.index))
    assert layout.places(*size, quants, asked) == layout.places(*size, quants, found)


@given(SIZES, st.sampled_from(list(layout.FORMS)), st.integers(0, 40))
def test_places_of_every_form_fill_the_screen_and_never_overlap(size: tuple[int, int], form: str, quants: int) -> None:
    places = layout.places(*size, quants, form).values()
    assert sum(place.width * place.height for place in places) == size[0] * size[1]
    for one, other in itertools.combinations(places, 2):
        assert (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or (one.y + one.height <= other.y or other.y + other.height <= one.y)
        )
    assert all(p.width > 0 and p.height > 0 and p.x + p.width <= size[0] and p.y + p.height <= size[1] for p in places)


@given(st.integers(170, 400), st.integers(44, 150), st.integers(0, 40))
def test_the_vast_form_has_bus_gpu_and_the_plot_apart_none_too_low_to_say_something(
    width: int, height: int, quants: int
) -> None:
    places = layout.places(width, height, quants)
    assert {"bus", "gpu", "pareto", "table", "story"} <= set(places)
    assert all(places[name].height >= 4 for name in ("bus", "gpu", "power"))
    assert places["pareto"].height >= 8 and places["story"].height >= 8
    assert places["table"].x == places["pareto"].x == places["story"].x > 0


@pytest.mark.parametrize(
    ("size", "form"), [((40, 10), "lines"), ((80, 24), "rows"), ((120, 40), "panels"), ((200, 50), "wide")]
)
def test_the_four_sizes_of_the_design_have_their_forms(size: tuple[int, int], form: str) -> None:
    assert layout.largest(*size) == form


# --- themes ---------------------------------------------------------------------------------------------------------

THEMES, WRONG = theming.load([paths.shipped() / "themes"])
PAINTED = sorted(name for name, theme in THEMES.items() if not theme.ansi)
DEPTHS = [ColorSystem.TRUECOLOR, ColorSystem.EIGHT_BIT]
GROUND = ("background", "surface", "selection")
QUIET = ("dim", "ghost", "border")
"""Roles that no figure and no word of weight is written in."""

APART = (
    ("ok", "info", "warn", "bad", "text"), ("weights", "kv", "other"), ("dim", "text"), ("speed", "prompt"),
    ("speed", "ghost"), ("perplexity", "ghost"), ("background", "selection"), ("background", "border"),
)  # fmt: skip
"""Roles that stand beside each other and must not look the same."""


def shades(theme: str, depth: ColorSystem) -> dict[str, Shade]:
    """A theme's colours as a terminal of this depth shows them."""
    colours = theming.COLOURS | THEMES[theme].colours
    return {role: Color.parse(text).rich_color.downgrade(depth) for role, text in colours.items()}


def contrast(one: Shade, other: Shade) -> float:
    """WCAG 2.2's contrast ratio, from 1 to 21."""
    low, high = sorted(_luminance(shade) for shade in (one, other))
    return (high + 0.05) / (low + 0.05)


def _luminance(shade: Shade) -> float:
    parts = [part / 255 for part in shade.get_truecolor()]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_the_contrast_formula_gives_wcags_own_ends() -> None:
    black, white = Shade.parse("#000000"), Shade.parse("#ffffff")
    assert contrast(black, white) == pytest.approx(21) and contrast(white, white) == 1
    assert contrast(Shade.parse("#767676"), white) == pytest.approx(4.54, abs=0.01)


def test_five_themes_are_shipped_for_dark_light_sharp_colour_blind_and_the_terminals_own() -> None:
    assert WRONG == [] and set(THEMES) == {"dusk", "paper", "contrast", "blue-orange", "ansi"}
    assert [name for name, theme in THEMES.items() if not theme.dark] == ["paper"]


@pytest.mark.parametrize("depth", DEPTHS, ids=lambda depth: depth.name)
@pytest.mark.parametrize("theme", PAINTED)
def test_every_text_can_be_read(theme: str, depth: ColorSystem) -> None:
    """WCAG: 4.5:1 for text, 7:1 where contrast is the point, 3:1 for what can wait and for graphics."""
    found, text, quiet = shades(theme, depth), 7.0 if theme == "contrast" else 4.45, 3.0
    for role, shade in found.items():
        if role not in (*GROUND, *QUIET):
            assert contrast(shade, found["background"]) >= text, role
            assert contrast(shade, found["selection"]) >= quiet, role
    for role in ("text", "strong", "title"):
        assert contrast(found[role], found["selection"]) >= 4.5, role
    assert contrast(found["dim"], found["background"]) >= (text if theme == "contrast" else quiet)
    assert contrast(found["dim"], found["selection"]) >= quiet
    assert contrast(found["ghost"], found["background"]) >= quiet


@pytest.mark.parametrize("depth", DEPTHS, ids=lambda depth: depth.name)
@pytest.mark.parametrize("theme", PAINTED)
def test_what_must_be_told_apart_is_so_at_this_depth(theme: str, depth: ColorSystem) -> None:
    found = shades(theme, depth)
    for roles in APART:
        for one, other in itertools.combinations(roles, 2):
            assert found[one].get_truecolor() != found[other].get_truecolor(), (one, other)


def test_at_sixteen_colours_and_none_the_flags_of_the_ansi_theme_are_told_apart() -> None:
    palette = THEMES["ansi"].palette()
    looks = {role: (str(palette[role].color), palette[role].bold, palette[role].dim) for role in theming.COLOURS}
    for roles in (("ok", "info", "warn", "bad", "text", "dim"), ("weights", "kv", "other"), ("speed", "ghost")):
        assert len({looks[role] for role in roles}) == len(roles)
    assert all(shade.color is None or shade.color.type.name in ("STANDARD", "DEFAULT") for shade in palette.values())


def test_themes_that_a_depth_cannot_show_are_left_out_and_never_all_of_them() -> None:
    mine = THEMES | {"mine": theming.Theme("mine", ansi=True)}
    assert set(theming.usable(mine, "16")) == set(theming.usable(mine, "none")) == {"ansi", "mine"}
    assert theming.usable(mine, "256") == mine
    only = {"dusk": THEMES["dusk"]}
    assert theming.usable(only, "16") == only


# --- the doctor's strip ---------------------------------------------------------------------------------------------

ESCAPE = re.compile("\x1b\\[[0-9;]*m")


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1", "TERM": "xterm"}, {"TERM": "dumb"}])
def test_the_strip_is_plain_where_no_colour_is_wanted(environ: dict[str, str]) -> None:
    assert not any("\x1b" in line for line in terminal.strip(detected(environ), environ))


def test_the_strip_is_plain_where_there_is_no_terminal() -> None:
    found = evidence.detect({"TERM": "xterm-256color"}, "UTF-8", (80, 24), False)
    assert not any("\x1b" in line for line in terminal.strip(found, {}))


def test_the_strip_shows_every_set_and_depth_within_eighty_columns() -> None:
    shown = list(terminal.strip(detected({"TERM": "xterm-256color"}), {}))
    plain = [ESCAPE.sub("", line) for line in shown]
    assert not any("\x1b" in line for line in plain) and max(map(len, plain)) <= 83
    for begin in ("braille", "block", "ascii", "frames", "flags", "16", "256", "truecolor"):
        assert sum(line.split()[0] == begin for line in plain) == 1, begin
    whole = "\n".join(shown)
    assert all(mark in whole for mark in ("[!!]", "[!]", "[=]", "[ok]", "⣿", "█", "\x1b[107m", "48;5;255", "48;2;"))
    assert all(line.endswith("\x1b[0m") or "\x1b[0m" in line for line in shown if "\x1b" in line)


def test_a_ramp_climbs_through_every_height_of_its_set() -> None:
    for line in list(terminal.strip(detected({"NO_COLOR": "1"}), {"NO_COLOR": "1"}))[1:4]:
        name, ramp = line.split()[:2]
        assert len(set(ramp)) == glyphs.SETS[name].area.up


def test_the_lines_tell_each_switch_with_its_reason_in_ascii() -> None:
    told = "\n".join(terminal.lines(detected({"TERM": "xterm-256color", "SSH_CONNECTION": "x"})))
    assert told.isascii() and "xterm-256color, 120x40, over SSH" in told
    for said in ("braille: ", "256: TERM is", "panels: ", "off: over SSH"):
        assert said in told


# --- the user's keys ------------------------------------------------------------------------------------------------

DEFAULT = {action.id: action.keys for action in keys.ACTIONS}


def test_without_wishes_the_keys_are_the_registrys() -> None:
    assert keymap.check({}, DEFAULT) == DEFAULT


@given(st.sampled_from([chr(code) for code in range(33, 127) if chr(code) != ","]))
def test_every_sign_of_ascii_is_a_key_under_textuals_name_and_is_written_as_itself(sign: str) -> None:
    found = keymap.check({"freeze": sign}, {"freeze": ("space",)})["freeze"]
    assert found == (_normalize_key_list(sign),)
    assert keymap.shown(found[0]) == sign


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("f,space", ("f", "space")),
        ("f  space", ("f", "space")),
        ("F5, Ctrl+X", ("f5", "ctrl+x")),
        ("shift+tab ctrl+shift+f1", ("shift+tab", "ctrl+shift+f1")),
        ("comma question_mark ?", ("comma", "question_mark")),
        ("+ ctrl++", ("plus", "ctrl+plus")),
    ],
)
def test_keys_are_given_by_name_or_by_sign(text: str, expected: tuple[str, ...]) -> None:
    assert keymap.check({"freeze": text}, {"freeze": ("space",)})["freeze"] == expected


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"freze": "f"}, r"keys\.freze: no such action: did you mean freeze\?"),
        ({"xyzzy": "f"}, r"keys\.xyzzy: no such action: there are "),
        ({"freeze": "banana"}, r"keys\.freeze: 'banana' is no key"),
        ({"freeze": "ctrl+"}, r"keys\.freeze: 'ctrl\+' is no key"),
        ({"freeze": " , "}, r"keys\.freeze: names no key"),
        ({"freeze": "é\x1b[31m"}, r"keys\.freeze: .* is no key"),
        ({"freeze": "q"}, "keys: q would be both freeze and leave"),
    ],
)
def test_wrong_keys_are_one_line_that_names_the_action(asked: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said) as told:
        keymap.check(asked, {"freeze": ("space",), "leave": ("q",)})
    assert str(told.value).isprintable()


def test_two_actions_may_change_places() -> None:
    found = keymap.check({"freeze": "q", "leave": "space"}, {"freeze": ("space",), "leave": ("q",)})
    assert found["freeze"] == ("q",) and found["leave"][0] == "space"


def test_the_keys_that_would_stop_a_sweep_always_ask_first() -> None:
    assert {"ctrl+c", "ctrl+z"} <= set(keymap.check({"leave": "f10"}, DEFAULT)["leave"])


@given(st.dictionaries(st.sampled_from(sorted(DEFAULT)), st.text(min_size=1, max_size=20), max_size=4))
def test_any_wishes_are_taken_or_refused_in_one_printable_line(asked: dict[str, str]) -> None:
    try:
        found = keymap.check(asked, DEFAULT)
    except UserError as error:
        assert str(error).isprintable()
    else:
        every = [key for names in found.values() for key in names]
        assert len(every) == len(set(every)) and set(found) == set(DEFAULT)


def test_the_prefixes_of_tmux_and_screen_are_nobodys() -> None:
    assert not {"ctrl+a", "ctrl+b"} & {key for names in DEFAULT.values() for key in names}

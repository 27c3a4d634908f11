"""The one registry of actions: what a key does, in words, and how much it is worth in the footer. Knows no app.

Footer, help, palette and the `keys` of config.toml are made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec

MONITOR, EVERYWHERE = "monitor", "everywhere"


class Action(msgspec.Struct, frozen=True):
    """`id` is the app's action, `keys` Textual's names of the keys, `shown` how they are written.

    `brief` is the footer's word ("" leaves it to another's), `words` the help's sentence. Lower `priority` stays longer
    in a narrow footer; 0 is never shown there. `scope`: where the keys work, on the monitor alone or on each screen
    that follows the time cursor. `twin`: the action whose key stands with this one's before the footer's word.
    """

    id: str
    keys: tuple[str, ...]
    shown: str
    brief: str
    words: str
    priority: int = 0
    scope: str = MONITOR
    twin: str = ""


ACTIONS = (
    Action(
        "freeze", ("space",), "space", "freeze",
        "freeze the screen while the collection goes on; again: live. In a recording: pause and play", 3, EVERYWHERE,
    ),
    Action("earlier", ("left",), "←", "time", "5 s back in time", 4, EVERYWHERE, "later"),
    Action("later", ("right",), "→", "", "5 s forward in time", 0, EVERYWHERE),
    Action("far_earlier", ("shift+left",), "shift+←", "", "50 s back", 0, EVERYWHERE),
    Action("far_later", ("shift+right",), "shift+→", "", "50 s forward", 0, EVERYWHERE),
    Action("previous_phase", ("left_square_bracket",), "[", "phase", "where a phase began, backwards", 5, EVERYWHERE,
           "next_phase"),
    Action("next_phase", ("right_square_bracket",), "]", "", "where the next phase began", 0, EVERYWHERE),
    Action("previous_turn", ("left_curly_bracket",), "{", "quant", "where a quant began, backwards", 14, EVERYWHERE,
           "next_turn"),
    Action("next_turn", ("right_curly_bracket",), "}", "", "where the next quant began", 0, EVERYWHERE),
    Action("next_flag", ("n",), "n", "flag", "the next moment at which something was doubtful", 6, EVERYWHERE),
    Action("previous_flag", ("N",), "N", "", "the one before", 0, EVERYWHERE),
    Action("first", ("home", "g"), "home", "", "the first event of the session (also g)", 0, EVERYWHERE),
    Action("last", ("end", "G"), "end", "", "the newest event: live again (also G)", 0, EVERYWHERE),
    Action("faster", ("plus", "equals_sign"), "+", "speed", "play from here; again: twice as fast, up to 64x", 16,
           EVERYWHERE, "slower"),
    Action("slower", ("minus",), "-", "", "half as fast, down to 0.25x", 0, EVERYWHERE),
    *(
        Action(
            f"tenth({tenth})", (str(tenth),), "0-9" if tenth == 0 else str(tenth), "",
            "so many tenths into the session" if tenth == 0 else "", 0, EVERYWHERE,
        )
        for tenth in range(10)
    ),
    Action("next_quant", ("tab", "j", "down"), "tab", "row", "select the next quant (also j and the arrow)", 12),
    Action("previous_quant", ("shift+tab", "k", "up"), "shift+tab", "", "select the one before (also k)"),
    Action("arm", ("enter",), "enter", "arm", "everything about the selected quant", 7),
    Action("compare", ("c",), "c", "compare", "the selected quant beside another: speed, perplexity, answers", 8),
    Action("order", ("o",), "o", "sort", "sort the table by the next column", 15),
    Action("zoom", ("z",), "z", "zoom", "one panel on the whole screen; again: the next one; escape: all", 17),
    Action("unzoom", ("escape",), "esc", "", "all panels again"),
    Action("rerun", ("r",), "r", "re-run", "measure the selected quant's speed once more, in a fresh process", 10),
    Action("skip", ("x",), "x", "skip", "skip the selected quant, or the one under way", 11),
    Action("pause", ("p",), "p", "pause", "begin no further unit; again: go on", 13),
    Action("finish", ("f",), "f", "", "stop the sweep after the unit under way; --resume goes on"),
    Action("tolerance", ("T",), "T", "", "change the tolerance by which perplexities are decided"),
    Action(
        "snapshot", ("s",), "s", "snap",
        "write this screen as SVG, text and JSON into the session's snapshots/", 9, EVERYWHERE,
    ),
    Action("annotate", ("S",), "S", "", "the same with a note", 0, EVERYWHERE),
    Action("sessions", ("w",), "w", "sessions", "all sessions: open one, compare with one, delete one", 18),
    Action("theme", ("t",), "t", "theme", "the next theme", 19, EVERYWHERE),
    Action("palette", ("ctrl+p",), "^p", "palette", "find an action by its words", 20, EVERYWHERE),
    Action("help", ("question_mark",), "?", "help", "all keys, and what the marks mean", 2, EVERYWHERE),
    Action(
        "leave", ("q", "ctrl+c", "ctrl+z", "ctrl+q"), "q", "quit",
        "quit; while a sweep of this screen runs it asks first", 1,
    ),
)  # fmt: skip
"""Every action, in the footer's order. ctrl+a and ctrl+b belong to screen and tmux."""

MARKS = (
    ("[!!]", "contaminated: the speed is not this quant's, its figures carry a *"),
    ("[!]", "caution: read the sentence before believing the figure"),
    ("[=]", "explained: what sets this speed"),
    ("[ok]", "done; [i] information, [x] failed"),
    ("✓ ! ▶ ◐ · ✗", "done, done with a doubt, under way, begun but waiting, to come, failed"),
    ("*  …  ~", "tainted (in no ranking), still running, predicted"),
    ("lane", "L load, P prompt, G gen, X perplexity, T task; Q quantize, H hash, B bandwidth, W warm, A anchor"),
    ("│", "in a chart and in the lane: where the time cursor stands; dim beyond it"),
    ("±95", "95 % confidence sequence: right whenever one looks and stops"),
    ("call", "perplexity against the base's by that: within, worse, better, open; in brackets of this text alone"),
    ("KLD", "mean KL divergence from the base's probabilities, in nats"),
    ("bus", "achieved GB/s of the measured ceiling; A is the bytes that one token reads"),
    ("reread", "bytes that had to be read again for each token: from swap, from the file"),
)
"""What the signs on the screen mean."""


def footer(width: int, keymap: Mapping[str, str] = {}) -> tuple[tuple[str, str], ...]:
    """The monitor's keys that fit into `width` cells, (key, word), in the registry's order; the least worth leaves
    first."""
    return _footer(width, tuple(sorted(keymap.items())))


@lru_cache(maxsize=32)
def _footer(width: int, mapped: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    keymap = dict(mapped)
    kept = [action for action in ACTIONS if action.priority]
    while kept and sum(len(_together(a, keymap)) + len(a.brief) + 1 + gap(width) for a in kept) > width:
        kept.remove(max(kept, key=lambda action: action.priority))
    return tuple((_together(action, keymap), action.brief) for action in kept)


def _together(action: Action, keymap: Mapping[str, str]) -> str:
    """An action's key, with its twin's."""
    found = [shown(one, keymap) for one in ACTIONS if one.id in (action.id, action.twin)]
    return ("" if all(len(key) == 1 for key in found) else " ").join(found)


def gap(width: int) -> int:
    """Blanks after each of a footer's keys."""
    return 2 if width >= 100 else 1


def shown(action: Action, keymap: Mapping[str, str] = {}) -> str:
    """How an action's key is written: as in the registry, or as the user has it."""
    return keymap.get(action.id, action.shown)

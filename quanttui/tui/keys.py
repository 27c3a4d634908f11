"""The one registry of actions: what a key does, in words, and how much it is worth in the footer. Knows no app."""

from __future__ import annotations

import msgspec


class Action(msgspec.Struct, frozen=True):
    """`id` is the app's action, `keys` Textual's names of the keys, `shown` how they are written.

    `brief` is the footer's word, `words` the help's sentence ("" where another action's tells of it). Lower
    `priority` stays longer in a narrow footer; 0 is never shown there.
    """

    id: str
    keys: tuple[str, ...]
    shown: str
    brief: str
    words: str
    priority: int


ACTIONS = (
    Action(
        "freeze", ("space",), "space", "freeze",
        "freeze the screen while the collection goes on; again: live. In a replay: pause", 3,
    ),
    Action("earlier", ("left",), "←→", "5 s", "5 s back or forward in time", 4),
    Action("later", ("right",), "→", "", "", 0),
    Action("first", ("home",), "home", "", "the first event of the session", 0),
    Action("last", ("end",), "end", "", "the newest event: live again", 0),
    Action(
        "next_quant", ("tab", "j", "down"), "tab", "quant",
        "select the next quant, shift+tab the one before (also j k and the arrows)", 5,
    ),
    Action(
        "rerun", ("r",), "r", "re-run",
        "measure the speed of the selected quant once more, in a fresh process", 8,
    ),
    Action("previous_quant", ("shift+tab", "k", "up"), "k", "", "", 0),
    Action(
        "snapshot", ("s",), "s", "snapshot",
        "write this screen as SVG, text and JSON into the session's snapshots/", 6,
    ),
    Action("theme", ("t",), "t", "theme", "the next theme", 7),
    Action("help", ("question_mark",), "?", "help", "all keys, and what the marks mean", 2),
    Action(
        "leave", ("q", "ctrl+c", "ctrl+z", "ctrl+q"), "q", "quit",
        "quit; while a sweep of this screen runs it asks first", 1,
    ),
)  # fmt: skip
"""Every action, in the footer's order."""

MARKS = (
    ("[!!]", "contaminated: the speed is not this quant's, its figures carry a *"),
    ("[!]", "caution: read the sentence before believing the figure"),
    ("[=]", "explained: what sets this speed"),
    ("[ok]", "done; [i] information, [x] failed"),
    ("✓ ! ▶ ◐ · ✗", "done, done with a doubt, under way, begun but waiting, to come, failed"),
    ("*  …  ~", "tainted (in no ranking), still running, predicted"),
    ("±95", "95 % confidence sequence: right whenever one looks and stops"),
    ("call", "perplexity against the base's by that: within, worse, better, open"),
    ("bus", "achieved GB/s of the measured ceiling; A is the bytes that one token reads"),
    ("reread", "bytes that had to be read again for each token: from swap, from the file"),
)
"""What the signs on the screen mean."""


def footer(width: int) -> tuple[tuple[str, str], ...]:
    """The keys that fit into `width` cells, (key, word), in the registry's order; the least worth leaves first."""
    kept = [action for action in ACTIONS if action.priority]
    while kept and sum(len(a.shown) + len(a.brief) + 3 for a in kept) > width:
        kept.remove(max(kept, key=lambda action: action.priority))
    return tuple((action.shown, action.brief) for action in kept)

"""What viewers may ask of a running sweep, and why it would not. Pure: a request and what is known in, words out."""

from __future__ import annotations

import difflib

import msgspec

from quanttui import events as e
from quanttui.state import State, tolerance

ENDING = ("leave", "finish")
"""The sweep ends after the unit under way. Who leaves has another process go on with it."""

OF_NOW = ("stop", "pause", "resume", *ENDING)
"""Requests to the process that runs the sweep: they mean nothing to one that goes on with it later."""

OF_AN_ARM = ("skip", "rerun")
"""Requests about an arm, the one under way where none is named. They hold until they are met."""

KNOWN = (*OF_AN_ARM, *OF_NOW, "tolerance")


def judged(request: e.Control, state: State, late: bool = False) -> e.Control:
    """The request with the arm that it means, and refused where it makes no sense now.

    Args:
        late: it was left while no process ran the sweep.
    """
    if request.refused:
        return request
    arm = request.arm or (state.arm if request.request in OF_AN_ARM else "")
    named = msgspec.structs.replace(request, arm=arm)
    return msgspec.structs.replace(named, refused=_refusal(named, state, late))


def _refusal(request: e.Control, state: State, late: bool) -> str:
    """Why it does nothing, "" where it does what it says."""
    act = request.request
    if act not in KNOWN:
        near = difflib.get_close_matches(act, KNOWN, n=1)
        return f"no such request{f': did you mean {near[0]}?' if near else ''}"
    if act in OF_NOW and late:
        return "it came before this process went on with the sweep"
    if act in OF_AN_ARM:
        return _of_arm(act, request.arm, state)
    if act == "tolerance" and tolerance(request.value) is None:
        return "a tolerance is a number of percent, above 0 and below 100"
    if act == "pause" and state.paused:
        return "it is paused already"
    return "it is not paused" if act == "resume" and not state.paused else ""


def _of_arm(act: str, name: str, state: State) -> str:
    arm = state.arms.get(name)
    if arm is None:
        return "this sweep has no such quant" if name else "no quant is under way"
    if act == "skip" and arm.outcome not in ("planned", "running"):
        return "it is over already"
    return "it has not begun" if act == "rerun" and arm.attempt is None else ""

"""The report as data: one JSON object, schema 1. What is absent is null; figures are plain numbers.

    {"schema": 1, "model": name, "host": {…}, "arms": [{"id", "quant", "settings", "outcome", "error", "bytes",
     "bits_per_weight", "tensor_types", "prompt", "decode", "perplexity", "peak_memory", "energy", "reproduced",
     "verdicts"}], …}

Beside those keys: `quanttui` and `build` (versions), `session` (its state), `asked` (all settings), `notes`, `base`
and `deltas` (perplexity against the base arm, paired). Units: bytes, tokens per second, 1e9 bytes per second.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from quanttui.format import clean
from quanttui.state import State
from quanttui.summary import ArmSummary, Summary, summarize

SCHEMA = 1


def report(state: State, over: bool = False) -> dict[str, Any]:
    """The session as the object above.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
    """
    found = summarize(state, over)
    return {
        "schema": SCHEMA,
        "model": found.model,
        "host": plain(found.host),
        "build": plain(found.build),
        "session": {
            "state": clean(state.closed) or ("interrupted" if over else "running"),
            "started": finite(state.wall) or None,
            "seconds": finite(state.t),
        },
        "asked": plain(state.settings),
        "notes": list(found.notes),
        "arms": [_arm(arm) for arm in found.arms],
        "base": found.base or None,
        "deltas": _deltas(found),
    }


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: null."""
    return value if math.isfinite(value) else None


def plain(value: Any) -> Any:
    """Structs as objects with all their keys, text clean, numbers finite."""
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if isinstance(value, str):
        return clean(value, 2000)
    return finite(value) if isinstance(value, float) else value


def _arm(arm: ArmSummary) -> dict[str, Any]:
    return {
        "id": arm.id,
        "quant": arm.quant,
        "settings": plain(arm.settings),
        "outcome": arm.outcome,
        "error": arm.error or None,
        "bytes": arm.bytes,
        "bits_per_weight": plain(arm.bits_per_weight),
        "tensor_types": arm.tensor_types or None,
        "prompt": _some(arm.prompt, "tok_s", "sd", "n"),
        "decode": _some(arm.decode, "tok_s", "tok_s_median", "sd", "n", "gb_s", "mbu"),
        "perplexity": _some(arm.perplexity, "value", "se", "chunks"),
        "peak_memory": plain(arm.peak_memory) or None,
        "energy": _some(arm.energy, "joules_per_token", "tok_s_per_w", "source"),
        "reproduced": arm.reproduced or None,
        "verdicts": [_some(verdict, "code", "phase", "evidence") for verdict in arm.verdicts],
    }


def _some(value: msgspec.Struct | None, *names: str) -> dict[str, Any] | None:
    return None if value is None else {name: plain(getattr(value, name)) for name in names}


def _deltas(found: Summary) -> dict[str, Any]:
    return {arm.id: _some(arm.delta, "percent", "percent_error", "chunks") for arm in found.arms if arm.delta}

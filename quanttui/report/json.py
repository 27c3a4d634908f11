"""The report as data: one JSON object, schema 1. What is absent is null; figures are plain numbers.

    {"schema": 1, "model": name, "host": {…}, "arms": [{"id", "quant", "ghost", "kv", "settings", "outcome", "error",
     "bytes", "bits_per_weight", "tensor_types", "prompt", "decode", "tainted", "depths", "perplexity", "paired", "kld",
     "decision", "peak_memory", "energy", "placed", "reproduced", "disturbed", "drift", "verdicts"}], …}

Beside those keys: `build` (versions), `session` (its state), `asked` (all settings), `schedule` and `order` of them,
`floor` (A/A floor, a share of tok/s), `thriftiest` (the quant with the most tok/s per watt, tainted ones left out),
`notes`, `base` and `deltas` (perplexity against the base arm, in percent), `tasks`.
Units: bytes, tokens per second, 1e9 bytes per second, nats for nll and KL divergence; probabilities and drift are
shares of one.

`sd` is over the repetitions, `se` a standard error over the tokens, corrected for covariance where two are compared;
`percent_error` has the chunk as its unit. `radius`, `low` and `high` are of a 95 % confidence sequence: it may be
watched. Those of `paired` are of ln(PPL / PPL of the base), `interval` says of what: "text" (all of this text, whose
chunks are drawn at random) or "texts" (such texts). What ends in `_from_rows` is told by the base's 16-bit rows, as
llama-perplexity has it; `breaks` are session times at which the sweep was resumed between the repetitions of a speed,
and `notes` say what had changed by then; `decode.clean` is the speed outside of the contaminated stretches; `energy` is
net of `idle_watts` where those are known; `percentiles` by fraction ("0.5" the median) need the session's raw folder
and are null without it.

`tasks` has what the answers say, an object for each task, none without an answer:

    {"task", "base", "measure", "margin", "pairs", "excluded", "quants": [{"id", "answers", "planned", "cut",
     "too_long", "right", "thought": null or {"n", "thinking", "tokens", "cut", "share", "low", "high", "switch"},
     "measures": [{"name", "value", "low", "high", "n", "how", "hits"}],
     "against": null or {"n", "excluded", "delta", "low", "high", "cluster_low", "cluster_high", "lost", "gained", "p",
                         "test", "p_holm", "call", "tost_p", "detectable",
                         "subjects": [{"group", "n", "delta", "p", "p_holm"}]}}]}

All are shares of one, with 95 % intervals of a number of items that was fixed beforehand: `how` names a measure's;
those of `against` are paired bootstraps. The first of `measures` is the headline, named by `measure`; `against` holds a
quant against `base` in it, over `pairs` items, and is null for the base and where there are no pairs. decide.study's
structs say what each key means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from quanttui import session
from quanttui.decide.study import Study, study
from quanttui.format import clean
from quanttui.report import study as task_words
from quanttui.state import State
from quanttui.stats import divergence
from quanttui.stats.divergence import Rows
from quanttui.summary import ArmSummary, Delta, Depth, Kld, Summary, summarize, tainted

SCHEMA = 1


def report(
    state: State, over: bool = False, folder: Path | None = None, answers: Study | None = None
) -> dict[str, Any]:
    """The session as the object above.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
        folder: the session's, for the percentiles.
        answers: what the answers to tasks say; worked out here where it is not given.
    """
    found = summarize(state, over)
    known = {clean(arm.id, 80): arm for arm in state.arms.values()}
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
        "schedule": clean(state.settings.schedule),
        "order": [clean(name, 80) for name in state.settings.order] or [arm.id for arm in found.arms],
        "floor": plain(found.floor),
        "thriftiest": found.thriftiest or None,
        "notes": list(found.notes),
        "arms": [_arm(arm, session.rows(folder, known[arm.id]) if folder else None) for arm in found.arms],
        "base": clean(found.base, 80) or None,
        "deltas": _deltas(found),
        "tasks": plain(task_words.data(answers or study(state))),
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


def _arm(arm: ArmSummary, rows: Rows | None) -> dict[str, Any]:
    return {
        "id": arm.id,
        "quant": arm.quant,
        "ghost": arm.ghost,
        "kv": arm.kv or arm.settings["kv"],
        "settings": plain(arm.settings),
        "outcome": arm.outcome,
        "error": arm.error or None,
        "bytes": arm.bytes,
        "bits_per_weight": plain(arm.bits_per_weight),
        "tensor_types": arm.tensor_types or None,
        "prompt": _some(arm.prompt, "tok_s", "sd", "n", "breaks"),
        "decode": _some(arm.decode, "tok_s", "tok_s_median", "sd", "n", "radius", "gb_s", "mbu", "clean", "breaks"),
        "tainted": {kind: tainted(arm.verdicts, kind) for kind in ("prompt", "decode")},
        "depths": [_depth(one) for one in arm.deeper],
        "perplexity": _some(
            arm.perplexity, "value", "se", "chunks", "chunks_planned", "batch", "ubatch", "flash_attn"
        ),
        "paired": _paired(arm.delta),
        "kld": _kld(arm.kld, rows),
        "decision": _some(arm.decision, "call", "chunks", "of", "tolerance", "sure"),
        "peak_memory": plain(arm.peak_memory) or None,
        "energy": plain(arm.energy),
        "placed": plain(arm.placed),
        "reproduced": arm.reproduced or None,
        "disturbed": arm.disturbed,
        "drift": plain(arm.drift),
        "verdicts": [plain(verdict) for verdict in arm.verdicts],
    }


def _some(value: msgspec.Struct | None, *names: str) -> dict[str, Any] | None:
    return None if value is None else {name: plain(getattr(value, name)) for name in names}


def _depth(one: Depth) -> dict[str, Any]:
    return {
        "depth": one.depth,
        "prompt": _some(one.prompt, "tok_s", "sd", "n", "breaks"),
        "decode": _some(one.decode, "tok_s", "tok_s_median", "sd", "n", "radius", "breaks"),
        "tainted": {"prompt": one.prompt_tainted, "decode": one.decode_tainted},
    }


def _paired(delta: Delta | None) -> dict[str, Any] | None:
    """The perplexity against the base's: llama-perplexity's figures with the base's exact nll, and the sequence."""
    if delta is None:
        return None
    tokens = delta.tokens
    return {
        "base": delta.base,
        "chunks": delta.chunks,
        "ln_ratio": plain(tokens.ln_ratio.value) if tokens else _ln(delta.percent),
        "se": plain(tokens.ln_ratio.error) if tokens else None,
        "ratio": plain(tokens.ratio.value) if tokens else None,
        "ratio_se": plain(tokens.ratio.error) if tokens else None,
        "difference": plain(tokens.difference.value) if tokens else None,
        "difference_se": plain(tokens.difference.error) if tokens else None,
        "correlation": plain(tokens.correlation) if tokens else None,
        "low": _ln(delta.low),
        "high": _ln(delta.high),
        "interval": "text" if delta.of_text else "texts",
    }


def _ln(percent: float | None) -> float | None:
    """A difference in percent as the logarithm of the ratio."""
    return None if percent is None or not percent > -100 else finite(math.log1p(percent / 100))


def _kld(kld: Kld | None, rows: Rows | None) -> dict[str, Any] | None:
    if kld is None:
        return None
    found = divergence.from_rows(rows) if rows is not None else kld.found
    return {
        "base": kld.base,
        "chunks": kld.chunks,
        "mean": plain(found.kld.value),
        "se": plain(found.kld.error),
        "low": plain(kld.low),
        "high": plain(kld.high),
        "percentiles": _at(found.kld_at),
        "p_diff_mean": plain(found.p_diff.value),
        "p_diff_se": plain(found.p_diff.error),
        "p_diff_rms": plain(found.p_diff_rms.value),
        "p_diff_rms_se": plain(found.p_diff_rms.error),
        "p_diff_percentiles": _at(found.p_diff_at),
        "same_top": plain(found.same_top.value),
        "same_top_se": plain(found.same_top.error),
        "ppl_base_from_rows": plain(found.ppl_base.value),
        "ln_ratio_from_rows": plain(found.ln_ratio.value),
        "ln_ratio_se_from_rows": plain(found.ln_ratio.error),
    }


def _at(percentiles: Mapping[float, float]) -> dict[str, float | None] | None:
    return {f"{fraction:g}": finite(value) for fraction, value in percentiles.items()} or None


def _deltas(found: Summary) -> dict[str, Any]:
    names = ("percent", "percent_error", "low", "high", "chunks")
    return {arm.id: _some(arm.delta, *names) for arm in found.arms if arm.delta}

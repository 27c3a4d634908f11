"""The report as a table for spreadsheets and data frames: CSV after RFC 4180, one row an arm, headers with units.

A header ends in its unit: `_tok_s` tokens per second, `_gb_s` 1e9 bytes per second, `_pct` percent, `_bytes`, `_j`
joules, `_nats`. Beside a figure: `_sd` standard deviation over the repetitions, `_se` one standard error over the
tokens, `_ci95_half` half-width and `_low95`, `_high95` ends of a 95 % interval (of speeds, perplexities and KL
divergence a confidence sequence, which may be watched; of tasks as decide.study has it). `_contaminated`: the figure is
not the quant's own. Depths after the first and tasks have columns of their own: `decode_d4096_tok_s`,
`task_mmlu_accuracy_pct`.

An empty cell is something that was not measured, or has no meaning for the arm; figures are as exact as they are known.
A text that a spreadsheet would take for a formula has an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable

from quanttui.decide.study import Finding, Standing, Study, study
from quanttui.format import clean
from quanttui.state import State
from quanttui.summary import ArmSummary, Depth, Speed, Summary, peak, summarize, tainted

Cell = str | int | float | bool | None

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a formula begins with, the full-width forms too: some spreadsheets take those for the others."""
_RAN_WITH = ("imatrix", "kv", "threads", "gpu_layers", "batch", "ubatch", "flash_attn", "depth")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")


def report(state: State, over: bool = False, answers: Study | None = None) -> str:
    """The session as CSV, lines ended by CR LF, a header first.

    Args:
        over: nobody goes on with the session, though it was never closed (session.status says interrupted).
        answers: what the answers to tasks say; worked out here where it is not given.
    """
    found, tasks = summarize(state, over), answers or study(state)
    rows = [{**_session(state, found), **_arm(arm, found, tasks)} for arm in found.arms]
    columns = dict.fromkeys(name for row in rows for name in row) or dict.fromkeys(_session(state, found))
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([cell(row.get(name)) for name in columns] for row in rows)
    return file.getvalue()


def cell(value: Cell) -> str:
    """A cell as text: one line, "" for what is not known or no number, and no formula."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = clean(value, 2000)
        return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text
    return repr(value)


def _session(state: State, found: Summary) -> dict[str, Cell]:
    """What is the same in every row, so that tables of several sessions can be put below each other."""
    host, build = found.host, found.build
    return {
        "model": found.model,
        "host": host.name if host else None,
        "cpu": host.cpu if host else None,
        "gpus": ", ".join(gpu.name for gpu in host.gpus) if host else None,
        "quanttui": build.quanttui if build else None,
        "llama_cpp": build.llama_cpp if build else None,
        "started_unix_s": state.wall if state.wall > 0 else None,
        "aa_floor_pct": _pct(found.floor),
    }


def _arm(arm: ArmSummary, found: Summary, tasks: Study) -> dict[str, Cell]:
    return {
        "arm": arm.id,
        "quant": arm.quant,
        "outcome": arm.outcome,
        "error": arm.error,
        "ghost": arm.ghost,
        "size_bytes": arm.bytes,
        "bits_per_weight": arm.bits_per_weight,
        **{name: arm.settings[name] for name in _RAN_WITH},
        **_speed("prompt", arm.prompt, tainted(arm.verdicts, "prompt")),
        **_speed("decode", arm.decode, arm.tainted),
        **_decode(arm),
        **_quality(arm, found.base),
        "peak_memory_bytes": peak(arm),
        **_energy(arm),
        "reproduced": arm.reproduced,
        "disturbed_repetitions": arm.disturbed,
        "drift_pct": _pct(arm.drift),
        "verdicts": " ".join(dict.fromkeys(one.code for one in arm.verdicts)),
        "first_verdict": arm.verdicts[0].words if arm.verdicts else None,
        **_deeper(arm.deeper),
        **_tasks(tasks, arm.id),
    }


def _speed(name: str, speed: Speed | None, contaminated: bool) -> dict[str, Cell]:
    return {
        f"{name}_tok_s": speed.tok_s if speed else None,
        f"{name}_tok_s_median": speed.tok_s_median if speed else None,
        f"{name}_tok_s_sd": speed.sd if speed else None,
        f"{name}_tok_s_ci95_half": speed.radius if speed else None,
        f"{name}_repetitions": speed.n if speed else None,
        f"{name}_contaminated": contaminated if speed else None,
    }


def _decode(arm: ArmSummary) -> dict[str, Cell]:
    decode = arm.decode
    return {
        "decode_clean_tok_s": decode.clean.tok_s if decode and decode.clean else None,
        "bus_gb_s": decode.gb_s if decode else None,
        "bus_share_pct": _pct(decode.mbu) if decode else None,
    }


def _quality(arm: ArmSummary, base: str) -> dict[str, Cell]:
    quality, delta, kld, decision = arm.perplexity, arm.delta, arm.kld, arm.decision
    found = kld.found if kld else None
    return {
        "perplexity": quality.value if quality else None,
        "perplexity_se": quality.se if quality else None,
        "chunks": quality.chunks if quality else None,
        "chunks_planned": quality.chunks_planned if quality else None,
        "base": clean(base, 80) if quality else None,
        "delta_ppl_pct": delta.percent if delta else None,
        "delta_ppl_pct_se": delta.percent_error if delta else None,
        "delta_ppl_pct_low95": delta.low if delta else None,
        "delta_ppl_pct_high95": delta.high if delta else None,
        "delta_ppl_chunks": delta.chunks if delta else None,
        "kld_nats": found.kld.value if found else None,
        "kld_nats_se": found.kld.error if found else None,
        "kld_nats_low95": kld.low if kld else None,
        "kld_nats_high95": kld.high if kld else None,
        "rms_delta_p_pct": _pct(found.p_diff_rms.value) if found else None,
        "same_top_pct": _pct(found.same_top.value) if found else None,
        "same_top_pct_se": _pct(found.same_top.error) if found else None,
        "call": decision.call if decision else None,
        "call_tolerance_pct": _pct(decision.tolerance) if decision else None,
    }


def _energy(arm: ArmSummary) -> dict[str, Cell]:
    energy = arm.energy
    return {
        "energy_j_per_token": energy.joules_per_token if energy else None,
        "energy_gross_j_per_token": energy.gross_joules_per_token if energy else None,
        "tok_s_per_w": energy.tok_s_per_w if energy else None,
        "energy_contaminated": energy.tainted if energy else None,
    }


def _deeper(depths: Iterable[Depth]) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for one in depths:
        found |= _speed(f"prompt_d{one.depth}", one.prompt, one.prompt_tainted)
        found |= _speed(f"decode_d{one.depth}", one.decode, one.decode_tainted)
    return found


def _tasks(found: Study, arm: str) -> dict[str, Cell]:
    """What the tasks say of an arm: its own shares, and its headline against the base's."""
    cells: dict[str, Cell] = {}
    for one in found.standings:
        if one.arm == arm:
            cells |= _standing(f"task_{_slug(one.task)}", one)
    for finding in found.findings:
        if finding.arm == arm:
            cells |= _finding(f"task_{_slug(finding.task)}_vs_base", finding)
    return cells


def _standing(name: str, one: Standing) -> dict[str, Cell]:
    cells: dict[str, Cell] = {
        f"{name}_answers": one.answers,
        f"{name}_planned": one.planned,
        f"{name}_cut_off": one.cut,
        f"{name}_too_long": one.too_long,
    }
    for measure in one.measures:
        what = f"{name}_{_slug(measure.name)}"
        cells |= {
            f"{what}_pct": _pct(measure.value),
            f"{what}_pct_low95": _pct(measure.low),
            f"{what}_pct_high95": _pct(measure.high),
            f"{what}_n": measure.n,
        }
    if one.thought is not None:
        cells |= {
            f"{name}_thinks_pct": _pct(one.thought.share),
            f"{name}_thinking_tokens": one.thought.tokens,
        }
    return cells


def _finding(name: str, one: Finding) -> dict[str, Cell]:
    return {
        name: one.base,
        f"{name}_delta_pp": _pct(one.delta),
        f"{name}_delta_pp_low95": _pct(one.low),
        f"{name}_delta_pp_high95": _pct(one.high),
        f"{name}_pairs": one.n,
        f"{name}_lost": one.lost,
        f"{name}_gained": one.gained,
        f"{name}_p": one.p,
        f"{name}_p_holm": one.p_holm,
        f"{name}_call": one.call,
        f"{name}_margin_pp": _pct(one.margin),
    }


def _slug(name: str) -> str:
    """A name as part of a header: micro-F1 is micro_f1."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "unnamed"


def _pct(share: float | None) -> float | None:
    return None if share is None else 100 * share

"""Reports: the JSON's schema to the key, the text's width, marks and safety."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import headless, session, summary
from quanttui import state as fold
from quanttui.report import json as as_json
from quanttui.report import text as as_text
from quanttui.stats import divergence

MIXED = (
    builders.Arm("F16", tok_s=9.5, ppl=8.0, tokens=16),
    builders.Arm("Q8_0", tok_s=18.0, ppl=8.01, watts=40.0, tokens=16),
    builders.Arm("Q6_K", tok_s=6.4, page_in=0.093, cpu=0.4, ppl=8.05, tokens=8),
    builders.Arm("Q4_K_M", tok_s=4.0, swap=0.021, ppl=8.3, again=(26.0,), tokens=16, label_note="more Q5_K than named"),
    builders.Arm("Q2_K", fails="crashed", fails_in="prompt", error="signal 11", stderr=("ggml assert", "abort")),
    builders.Arm("Q3_K_S", fails="oom", fails_in="load"),
    builders.Arm("Q3_K_M", planned_only=True),
)
LOG = builders.events(*MIXED, notes=("CPU-only build: the GPU is not used",), closed=None)

KEYS = {
    "id", "quant", "kv", "settings", "outcome", "error", "bytes", "bits_per_weight", "tensor_types", "prompt", "decode",
    "depths", "perplexity", "paired", "kld", "decision", "peak_memory", "energy", "placed", "tainted", "reproduced",
    "disturbed", "drift", "verdicts", "ghost",
}  # fmt: skip
PARTS = {
    "settings": {
        "depth", "kv", "gpu_layers_asked", "gpu_layers", "batch", "ubatch", "flash_attn", "imatrix", "threads",
    },
    "prompt": {"tok_s", "sd", "n", "breaks"},
    "decode": {"tok_s", "tok_s_median", "sd", "n", "radius", "gb_s", "mbu", "clean", "breaks"},
    "perplexity": {"value", "se", "chunks", "chunks_planned", "batch", "ubatch", "flash_attn"},
    "paired": {
        "base", "chunks", "ln_ratio", "se", "ratio", "ratio_se", "difference", "difference_se", "correlation", "low",
        "high", "interval",
    },
    "kld": {
        "base", "chunks", "mean", "se", "low", "high", "percentiles", "p_diff_mean", "p_diff_se", "p_diff_rms",
        "p_diff_rms_se", "p_diff_percentiles", "same_top", "same_top_se", "ppl_base_from_rows", "ln_ratio_from_rows",
        "ln_ratio_se_from_rows",
    },
    "decision": {"call", "chunks", "of", "tolerance", "sure"},
    "energy": {
        "joules_per_token", "tok_s_per_w", "source", "gross_joules_per_token", "idle_watts", "tainted",
    },
}  # fmt: skip


DECIDING = builders.deciding()
ANCHORED = builders.deciding(levels=(16,), anchored=True)


def made(log: list[e.Event] = LOG) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(as_json.report(fold.fold(log)), allow_nan=False))
    return found


def arms() -> dict[str, dict[str, Any]]:
    return {arm["id"]: arm for arm in made()["arms"]}


@pytest.mark.parametrize("log", [LOG, DECIDING, ANCHORED])
def test_the_schema_is_kept_to_the_key(log: list[e.Event]) -> None:
    found = made(log)
    assert found["schema"] == 1
    assert {"floor", "schedule", "order", "deltas"} <= found.keys()
    assert found["model"] == "made-up 1.3B"
    assert found["host"]["memory"] == 24 << 30
    for arm in found["arms"]:
        assert arm.keys() == KEYS
        for part, keys in PARTS.items():
            assert arm[part] is None or arm[part].keys() == keys
        for memory in (arm["peak_memory"] or {}).values():
            assert memory.keys() == {"rss", "anonymous", "device"}
        for verdict in arm["verdicts"]:
            assert verdict.keys() == {"code", "phase", "kind", "words", "sentence", "advice", "evidence", "cost"}


def test_what_is_absent_is_null() -> None:
    planned = arms()["Q3_K_M"]
    absent = ("error", "bits_per_weight", "tensor_types", "prompt", "decode", "perplexity", "peak_memory", "energy")
    assert {planned[key] for key in absent} == {None}
    assert planned["reproduced"] is None
    assert planned["settings"]["gpu_layers"] is None
    assert planned["verdicts"] == []


def test_the_figures_are_the_summarys() -> None:
    for arm in summary.summarize(fold.fold(LOG)).arms:
        told = arms()[arm.id]
        assert (told["decode"] or {}).get("tok_s") == (arm.decode.tok_s if arm.decode else None)
        assert (told["perplexity"] or {}).get("value") == (arm.perplexity.value if arm.perplexity else None)
        assert [one["code"] for one in told["verdicts"]] == [one.code for one in arm.verdicts]
    assert arms()["Q4_K_M"]["reproduced"].startswith("1/2")


def test_chunks_that_are_no_numbers_are_left_out_and_json_stays_json() -> None:
    log = [
        e.Perplexity(unit=one.unit, chunk=one.chunk, chunks=one.chunks, scored=1, nll=float("nan"), nll2=0.0)
        if isinstance(one, e.Perplexity)
        else one
        for one in builders.events(builders.Arm("Q8_0", tokens=4))
    ]
    now = fold.fold(log)
    assert as_json.report(now)["arms"][0]["perplexity"] is None
    json.dumps(as_json.report(now), allow_nan=False)
    assert "nan" not in as_text.report(now)
    assert any("left out" in note.text for note in now.notes)


@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_wider_than_120_columns(ascii_only: bool) -> None:
    lines = as_text.report(fold.fold(LOG), ascii=ascii_only).splitlines()
    assert max(map(len, lines)) <= 120
    assert all(line == line.rstrip() for line in lines)


def test_ascii_is_ascii_and_says_the_same() -> None:
    now = fold.fold(LOG)
    plain = as_text.report(now, ascii=True)
    assert plain.isascii()
    assert "+-" in plain and "±" in as_text.report(now)
    assert re.findall(r"\d+\.\d+", plain) == re.findall(r"\d+\.\d+", as_text.report(now))


def row(report: str, quant: str) -> str:
    return next(line for line in report.splitlines() if re.match(rf"{quant} +[~0-9]", line))


def test_contaminated_figures_carry_an_asterisk_that_the_legend_explains_and_no_others_do() -> None:
    report = as_text.report(fold.fold(LOG))
    assert "6.40*" in row(report, "Q6_K") and "[!!] page-in" in row(report, "Q6_K")
    assert "*" not in row(report, "Q8_0")
    assert "* contaminated" in report
    clean = as_text.report(builders.state(builders.Arm("Q8_0", tok_s=18.0)))
    assert "*" not in clean


def test_every_interval_is_named() -> None:
    report = as_text.report(fold.fold(LOG))
    assert "± one standard deviation (n-1) over the repetitions" in report
    assert "± one standard error over the scored tokens" in report
    said = " ".join(report.split())
    assert "Δppl: against F16, paired" in said and "95 % confidence sequence" in said and "of texts like it" in said
    deciding = " ".join(as_text.report(fold.fold(DECIDING)).split())
    assert "of all of this text, whose chunks were drawn at random" in deciding
    assert "KLD, same top: ± one standard error" in deciding and "confidence sequence of the mean over 12" in deciding


def test_perplexity_is_printed_to_llama_perplexitys_four_decimals() -> None:
    now = fold.fold(LOG)
    found = now.arms["Q8_0"].perplexity()
    assert found is not None
    assert f"{found[0]:.4f}" in row(as_text.report(now), "Q8_0")


def test_an_arm_still_running_is_marked_and_a_planned_one_only_estimated() -> None:
    cut = [k for k, one in enumerate(LOG) if isinstance(one, e.Perplexity) and one.unit.arm == "Q8_0"]
    report = as_text.report(fold.fold(LOG[: cut[3] + 1]))
    assert "…" in row(report, "Q8_0")
    assert "…" not in row(report, "F16")
    assert "~" in row(report, "Q6_K") and row(report, "Q6_K").endswith("planned")
    assert "… still running" in report


def test_failures_are_told_with_their_last_words_and_a_way_out() -> None:
    report = as_text.report(fold.fold(LOG))
    assert "error: signal 11. " in report and "stderr folder" in report
    assert "    | ggml assert\n    | abort" in report
    assert "Take a smaller quant" in report
    assert "label: more Q5_K than named" in report
    assert "1/2: 4.00 then 26.0 tok/s" in report
    assert "J/token" in report and "RAPL" in report


def test_the_header_says_what_ran_on_what() -> None:
    report = as_text.report(fold.fold(LOG))
    head = report[: report.index("\n\n")]
    for fact in ("made-up 1.3B", "Zen 4", "24.0 GiB", "b6401", "0.3.36", "ab" * 32, "CPU-only build", "still running"):
        assert fact in head
    assert "interrupted" in as_text.report(fold.fold(LOG), over=True)


def test_energy_has_a_column_only_where_it_was_measured() -> None:
    assert "J/tok\n" in as_text.report(fold.fold(LOG))
    assert "J/tok" not in as_text.report(builders.state(builders.Arm("Q8_0", tokens=4)))


foreign = st.text(st.characters(codec="utf-8"), max_size=60)


@given(words=foreign)
@settings(max_examples=60, deadline=None)
def test_foreign_words_never_reach_a_terminal_raw(words: str) -> None:
    """Escape sequences, newlines, direction marks in names, errors and stderr come out as one clean line each."""
    nasty = words + "\x1b]0;x\x07\u202e\n" + words
    failing = builders.Arm("Q8_0", fails="crashed", fails_in="load", error=nasty, stderr=(nasty,), label_note=nasty)
    now = builders.state(
        failing, notes=(nasty,), host=builders.host(name=nasty, cpu=nasty), build=builders.build(llama_cpp=nasty)
    )
    for report in (as_text.report(now), as_text.report(now, ascii=True)):
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", report)
    assert "\x1b" not in json.dumps(as_json.report(now), ensure_ascii=False)


def test_a_session_without_arms_can_be_reported() -> None:
    assert as_text.report(fold.State()).startswith("quanttui report: no model")
    assert as_json.report(fold.State())["arms"] == []


@pytest.mark.parametrize("cut", range(0, 40))
def test_any_moment_of_a_sweep_can_be_reported(cut: int) -> None:
    now = fold.fold(LOG[: cut * len(LOG) // 39])
    assert max(map(len, as_text.report(now).splitlines())) <= 120
    json.dumps(as_json.report(now), allow_nan=False)


def test_the_end_of_a_sweep_is_told_on_one_screen_with_every_failure() -> None:
    arms = [builders.Arm("F16"), builders.Arm("Q8_0", fails="crashed"), builders.Arm("Q4_K_M")]
    lines = as_text.brief(builders.state(*arms)).splitlines()
    assert len(lines) <= 20 and max(map(len, lines)) <= 120
    assert any(line.startswith("Q8_0 crashed: ") for line in lines)
    assert all(any(line.startswith(name) for line in lines) for name in ("F16", "Q8_0", "Q4_K_M"))


# --- against a base -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [DECIDING, ANCHORED])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_reports_of_deciding_sweeps_keep_to_their_columns(log: list[e.Event], ascii_only: bool) -> None:
    report = as_text.report(fold.fold(log), ascii=ascii_only)
    assert max(map(len, report.splitlines())) <= 120
    assert all(line == line.rstrip() for line in report.splitlines())
    assert report.isascii() == ascii_only and "?" not in report.replace("±?", "").replace("+-?", "")


def test_every_call_says_after_how_many_chunks_and_what_it_rests_on() -> None:
    now = fold.fold(DECIDING)
    report = as_text.report(now)
    for arm in summary.summarize(now).arms:
        if arm.decision is None:
            continue
        line = next(line for line in report.splitlines() if line.startswith(f"{arm.id}: ") and "Δppl" in line)
        assert f"after {arm.decision.chunks} of 655 chunks" in line and "95 % sequence" in line
        assert ("decided" in line.replace("undecided", "")) == (arm.decision.call != "undecided")
        assert {"within": "within 1 % of F16", "worse": "worse than F16", "undecided": "undecided against F16"}[
            arm.decision.call
        ] in line
    scored = sum(len(arm.chunks) for arm in now.arms.values())
    assert f"Scored {scored} of the {5 * 655} chunks" in report and "95 % each" in " ".join(report.split())


def test_a_full_sweep_is_not_said_to_have_decided_anything() -> None:
    arms = (builders.Arm("F16", chunks=40), builders.Arm("Q2_K", chunks=40, ppl=9.5))
    report = as_text.report(builders.state(*arms))
    assert "Q2_K: worse than F16 after 40 of 40 chunks" in report
    assert "decided after" not in report and "Scored" not in report


def test_losses_are_in_llama_perplexitys_terms_and_digits() -> None:
    now = fold.fold(DECIDING)
    report = as_text.report(now)
    found = divergence.from_sums(now.arms["Q4_K_M"].exact.sums)
    assert found.correlation is not None and found.ln_ratio.error is not None
    assert f"Mean ln(PPL(Q)/PPL(base))     : {found.ln_ratio.value:10.6f} ± {found.ln_ratio.error:10.6f}" in report
    assert f"Mean PPL(Q)-PPL(base)         : {found.difference.value:10.6f} ± {found.difference.error:10.6f}" in report
    assert f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * found.correlation:6.2f}%" in report
    rows = divergence.from_sums(now.arms["Q4_K_M"].rows.sums)
    assert f"Mean    KLD: {rows.kld.value:10.6f} ± {rows.kld.error:10.6f}" in report
    assert f"Same top p: {100 * rows.same_top.value:6.3f} ± {100 * (rows.same_top.error or 0):5.3f} %" in report


def test_what_changes_a_perplexitys_last_digits_stands_beside_it() -> None:
    report = " ".join(as_text.report(fold.fold(DECIDING)).split())
    assert "n_batch 2048, n_ubatch 512, flash attention asked auto, KV f16" in report
    own = builders.state(builders.Arm("F16"), builders.Arm("Q8_0", id="Q8_0-kv-q8_0", kv="q8_0"))
    assert "Q8_0-kv-q8_0: ok, 1.29 GiB, KV q8_0" in as_text.report(own)
    assert [arm["kv"] for arm in as_json.report(own)["arms"]] == ["f16", "q8_0"]


def kept(folder: Path, scored: int = 255) -> fold.State:
    """A session whose raw folder holds the tokens that its log sums up, their chunks drawn at random."""
    (folder / "raw").mkdir(parents=True)
    drawn, made = np.random.default_rng(7), []
    log = [one for one in DECIDING if not (isinstance(one, e.Perplexity) and one.unit.arm not in ("F16", "Q8_0"))]
    with open(folder / "raw" / "Q8_0.nll", "wb") as nll, open(folder / "raw" / "Q8_0.kld", "wb") as kld:
        for one in log:
            if isinstance(one, e.Perplexity) and one.unit.arm == "Q8_0":
                rows = divergence.Rows(
                    drawn.gamma(1, 2, scored), drawn.gamma(1, 2, scored), drawn.gamma(0.3, 0.01, scored),
                    drawn.normal(0, 0.02, scored), drawn.random(scored) < 0.97,
                )  # fmt: skip
                stacked, sums = rows.stacked(), divergence.sums(rows)
                nll.seek(8 * scored * one.chunk)
                nll.write(stacked[0].astype("<f8").tobytes())
                kld.seek(32 * scored * one.chunk)
                kld.write(stacked[1:].astype("<f8").tobytes())
                told = e.Diverged(
                    base="F16", nll_base=sums.nll_base, nll_base2=sums.nll_base2, nll_nll_base=sums.nll_nll_base,
                    kld=sums.kld, kld2=sums.kld2, p_diff=sums.p_diff, p_diff2=sums.p_diff2, p_diff4=sums.p_diff4,
                    same_top=sums.same_top, file="raw/Q8_0.kld", offset=32 * scored * one.chunk,
                )  # fmt: skip
                one = msgspec.structs.replace(one, nll=sums.nll, nll2=sums.nll2, diverged=told)
            made.append(one)
    return fold.fold(made)


def test_the_tokens_of_a_session_are_what_its_log_sums_up(tmp_path: Path) -> None:
    now = kept(tmp_path)
    arm = now.arms["Q8_0"]
    rows = session.rows(tmp_path, arm)
    assert rows is not None and len(rows.nll) == 255 * len(arm.chunks)
    found = divergence.sums(rows)
    assert found.same_top == arm.rows.sums.same_top
    assert (found.kld, found.nll_nll_base) == pytest.approx((arm.rows.sums.kld, arm.rows.sums.nll_nll_base))
    first = min(arm.chunks)
    assert float(rows.nll[:255].sum()) == pytest.approx(arm.chunks[first].nll)
    assert session.rows(tmp_path, now.arms["F16"]) is None


def test_percentiles_are_those_of_the_tokens_and_in_the_report_with_their_folder(tmp_path: Path) -> None:
    now = kept(tmp_path)
    rows = session.rows(tmp_path, now.arms["Q8_0"])
    assert rows is not None
    report, data = as_text.report(now, folder=tmp_path), as_json.report(now, folder=tmp_path)
    assert f"Maximum KLD: {rows.kld.max():10.6f}" in report and f"Minimum Δp: {100 * rows.p_diff.min():6.3f}%" in report
    assert f"Median  KLD: {float(np.median(rows.kld.astype(np.float32))):10.6f}" in report
    assert "99.9%   KLD: " in report and " 0.1%   KLD: " in report and "25.0%   Δp: " in report
    told = next(arm for arm in data["arms"] if arm["id"] == "Q8_0")["kld"]
    assert told["percentiles"]["1"] == pytest.approx(rows.kld.max())
    assert told["p_diff_percentiles"].keys() >= {"0.75", "0.25", "0"}


@pytest.mark.parametrize("harm", ["cut off", "gone", "changed"])
def test_tokens_that_are_not_what_the_log_says_are_none(tmp_path: Path, harm: str) -> None:
    """The report then says what it lacks, and all else stays."""
    now = kept(tmp_path)
    path = tmp_path / "raw" / "Q8_0.kld"
    data = bytearray(path.read_bytes())
    if harm == "gone":
        path.unlink()
    elif harm == "cut off":
        path.write_bytes(data[:-8])
    else:
        first = 32 * 255 * min(now.arms["Q8_0"].chunks)
        data[first + 8 * 255 : first + 16 * 255] = bytes(8 * 255)
        path.write_bytes(data)
    assert session.rows(tmp_path, now.arms["Q8_0"]) is None
    report = as_text.report(now, folder=tmp_path)
    assert "percentiles: not here" in report and "Maximum KLD" not in report and "Mean    KLD" in report


def test_the_floor_and_drift_are_told_with_the_schedule() -> None:
    now = fold.fold(ANCHORED)
    head = " ".join(as_text.report(now).split("\n\n")[0].split())
    floor = summary.summarize(now).floor
    assert floor is not None and f"±{100 * floor:.1f} %" in head and "A/A floor" in head
    assert "+8.1 % while Q4_K_M was measured" in head
    assert "schedule sequential" in head and "anchor every 1 quants" in head
    told = made(ANCHORED)
    assert told["floor"] == pytest.approx(floor)
    drift = {arm["id"]: arm["drift"] for arm in told["arms"]}
    assert drift["Q4_K_M"] == pytest.approx(33.4 / 30.9 - 1, rel=0.01) and drift["Q8_0"] is None


def test_depths_have_a_table() -> None:
    report = as_text.report(fold.fold(DECIDING))
    assert re.search(r"^F16 +0 +210±\S+ +9.50±\S+$", report, re.M)
    assert re.search(r"^F16 +4096 +13\d±\S+ +6.\d+±\S+$", report, re.M)
    assert [one["depth"] for one in made(DECIDING)["arms"][0]["depths"]] == [4096]
    assert "2 repetitions done again: a key was answered" in report


def test_the_interval_in_json_is_of_the_logarithm_and_says_of_what() -> None:
    for arm in made(DECIDING)["arms"]:
        paired = arm["paired"]
        if paired is not None:
            assert paired["low"] < paired["ln_ratio"] < paired["high"]
            assert paired["interval"] == "text"
            assert paired["ratio"] == pytest.approx(math.exp(paired["ln_ratio"]))
    assert made()["arms"][1]["paired"]["interval"] == "texts"


@pytest.mark.parametrize("cut", range(0, 30))
def test_any_moment_of_a_deciding_sweep_can_be_reported(cut: int) -> None:
    now = fold.fold(ANCHORED[: cut * len(ANCHORED) // 29])
    assert max(map(len, as_text.report(now).splitlines())) <= 120
    assert max(map(len, as_text.brief(now).splitlines())) <= 120
    json.dumps(as_json.report(now), allow_nan=False)


# --- lines ----------------------------------------------------------------------------------------------------------


def told(log: list[e.Event]) -> list[str]:
    now, found = fold.State(), []
    for event in log:
        now.apply(event)
        found += headless.lines(event, now)
    return found


def test_progress_counts_chunks_whichever_they_are() -> None:
    said = [line for line in told(DECIDING) if "so far" in line]
    assert said and all(re.search(r" (20|40)/655 chunks$", line) for line in said)
    arms = {line.split()[2] for line in said}
    assert arms == {name for name, arm in fold.fold(DECIDING).arms.items() if len(arm.chunks) >= 20}


def test_each_arm_that_is_decided_has_one_line_of_its_call() -> None:
    said = [line for line in told(DECIDING) if "decided after" in line]
    assert sorted(line.split()[2] for line in said) == ["Q2_K", "Q3_K_M", "Q8_0"]
    assert any("perplexity within 1 % of F16, decided after" in line and "95 % sequence" in line for line in said)


def test_the_anchor_has_a_line_a_round_and_a_disturbed_repetition_one() -> None:
    lines = told(ANCHORED)
    rounds = [line for line in lines if " anchor Q2_K " in line]
    assert len(rounds) == 5 and "since" not in rounds[0]
    assert "-0.6 % since the last round" in rounds[2] and rounds[3].endswith("+8.1 % since the last round: drift")
    assert sum("done again: a key was answered" in line for line in lines) == 2
    assert sum("decoded beside each quant" in line for line in lines) == 1


def test_turns_do_not_flood_the_lines() -> None:
    """What a turn only goes on with has no line: neither another load, nor a phase that is not over."""
    for log in (DECIDING, ANCHORED):
        assert len(told(log)) < 80
        assert all(len(line) < 300 for line in told(log))
    assert headless.bar(fold.fold(DECIDING)).count("at most") == 1

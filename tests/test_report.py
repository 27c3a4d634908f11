"""Reports: the JSON's schema to the key, the text's width, marks and safety."""

from __future__ import annotations

import json
import re
from typing import Any

import builders
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import state as fold
from quanttui import summary
from quanttui.report import json as as_json
from quanttui.report import text as as_text

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
    "id", "quant", "settings", "outcome", "error", "bytes", "bits_per_weight", "tensor_types", "prompt", "decode",
    "perplexity", "peak_memory", "energy", "reproduced", "verdicts",
}  # fmt: skip
PARTS = {
    "settings": {
        "depth", "kv", "gpu_layers_asked", "gpu_layers", "batch", "ubatch", "flash_attn", "imatrix", "threads",
    },
    "prompt": {"tok_s", "sd", "n"},
    "decode": {"tok_s", "tok_s_median", "sd", "n", "gb_s", "mbu"},
    "perplexity": {"value", "se", "chunks"},
    "energy": {"joules_per_token", "tok_s_per_w", "source"},
}  # fmt: skip


def made() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(as_json.report(fold.fold(LOG)), allow_nan=False))
    return found


def arms() -> dict[str, dict[str, Any]]:
    return {arm["id"]: arm for arm in made()["arms"]}


def test_the_schema_is_kept_to_the_key() -> None:
    found = made()
    assert found["schema"] == 1
    assert found["model"] == "made-up 1.3B"
    assert found["host"]["memory"] == 24 << 30
    for arm in found["arms"]:
        assert arm.keys() == KEYS
        for part, keys in PARTS.items():
            assert arm[part] is None or arm[part].keys() == keys
        for memory in (arm["peak_memory"] or {}).values():
            assert memory.keys() == {"rss", "anonymous", "device"}
        for verdict in arm["verdicts"]:
            assert verdict.keys() == {"code", "phase", "evidence"}


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


def test_a_number_that_json_does_not_have_is_null() -> None:
    log = [
        e.Perplexity(unit=one.unit, chunk=one.chunk, chunks=one.chunks, scored=1, nll=float("nan"), nll2=0.0)
        if isinstance(one, e.Perplexity)
        else one
        for one in builders.events(builders.Arm("Q8_0", tokens=4))
    ]
    now = fold.fold(log)
    assert as_json.report(now)["arms"][0]["perplexity"]["value"] is None
    json.dumps(as_json.report(now), allow_nan=False)
    assert "nan" in as_text.report(now)


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
    assert "Δppl: against F16, paired" in report


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

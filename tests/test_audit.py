"""The audit of published figures: what arithmetic says of them, and what is made of tables that are none.

Sources and devices have names that nobody knows: what is said follows from the columns.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import cli, quants
from quanttui.audit import audit, table
from quanttui.audit.found import Audit, Finding, Judged
from quanttui.audit.table import COLUMNS, NUMBERS, Figure, Row, Table
from quanttui.diagnosis.case import CODES
from quanttui.diagnosis.thresholds import DEFAULTS
from quanttui.errors import UserError
from quanttui.report import audit as told

EIGHT, SEVENTY = "Llama-3.1-8B", "Llama-3-70B"


def written(rows: Sequence[dict[str, str]], columns: Sequence[str] = COLUMNS) -> bytes:
    """The rows as a CSV file's bytes."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def line(quant: str = "", **cells: object) -> dict[str, str]:
    """A row of one source, device and model, where nothing else is said."""
    own = {"source": "s", "device": "d", "model": EIGHT, "quant": quant}
    return own | {name: str(value) for name, value in cells.items()}


def judged(*rows: dict[str, str]) -> Audit:
    return audit(table.parse(written(rows), "t.csv"))


def codes(one: Judged) -> list[str]:
    return [finding.code for finding in one.findings]


def only(*rows: dict[str, str]) -> Finding:
    """The one finding of the first row."""
    (found,) = judged(*rows).rows[0].findings
    return found


M = {"memory_gb": 16, "peak_gbps": 120}
CASE = (
    line("IQ3_XS", size_gb=3.5, tok_s="13.0", swapped="no", **M),
    line("Q3_K_M", size_gb="4.0", tok_s=10.1, swapped="no", **M),
    line("Q4_K_M", size_gb=4.9, tok_s=19.7, swapped="no", **M),
    line("Q5_K_S", tok_s_per_w=6.96, swapped="yes", claim="best per watt; 2.4 W average", **M),
    line("Q6_K", size_gb=6.6, tok_s=16.3, swapped="no", **M),
    line("Q8_0", size_gb=8.5, tok_s=0.13, swapped="no", claim="memory bandwidth wall; GPU 80 %", **M),
)
"""An 8B model on 16 GB and 120 GB/s, one quant far off the rest."""


# --- the bus --------------------------------------------------------------------------------------------------------


def test_a_speed_is_the_bandwidths_only_where_the_bytes_say_so() -> None:
    """File minus embedding, times tok/s, over the peak: 76 and 84 % are the wall (80 and 90 % by whole files), 36 and
    32 % are not, and a claim changes nothing."""
    found = {one.row.quant: one for one in judged(*CASE).rows}
    shares = {name: round(100 * one.bus.share) for name, one in found.items() if one.bus and one.bus.share}
    wholes = {name: round(100 * one.bus.whole_share) for name, one in found.items() if one.bus and one.bus.whole_share}
    assert shares == {"IQ3_XS": 35, "Q3_K_M": 32, "Q4_K_M": 76, "Q6_K": 84, "Q8_0": 1}
    assert wholes == {"IQ3_XS": 38, "Q3_K_M": 34, "Q4_K_M": 80, "Q6_K": 90, "Q8_0": 1}
    assert {name for name, one in found.items() if codes(one) == ["bandwidth-wall"]} == {"Q4_K_M", "Q6_K"}
    assert {name for name, one in found.items() if codes(one) == ["unexplained"]} == {"IQ3_XS", "Q3_K_M", "Q8_0"}


def test_what_starves_is_suspected_and_what_the_wall_would_give_is_told() -> None:
    """0.9 % of the bus is page-in or contention until shown otherwise; the rows at the wall predict about 12 tok/s."""
    one = next(one for one in judged(*CASE).rows if one.row.quant == "Q8_0")
    said = one.findings[0].sentence
    assert one.tainted and one.expected is not None
    assert (round(one.expected.tok_s), round(one.expected.low, 1), round(one.expected.high, 1)) == (12, 11.4, 12.7)
    assert all(
        words in said
        for words in ("not the memory", "Page-in or contention", "The claim says so", "busy GPU", "About 12")
    )


def test_a_slower_quant_that_reads_less_is_held_by_something_else() -> None:
    """Whatever the bus gives: a larger file that is faster on the same device proves it."""
    found = {one.row.quant: one.findings[0].sentence for one in judged(*CASE).rows}
    assert "Q4_K_M reads more and is faster here" in found["IQ3_XS"]
    assert "dequantization" in found["Q3_K_M"]
    assert "reads more" not in found["Q4_K_M"]


def test_no_speed_at_the_wall_and_each_is_told_where_it_begins() -> None:
    """A 12 GB card of 360 GB/s: 32 to 41 % (34 to 44 % by whole files) are no wall, and 16 GB do not fit."""
    card = {"memory_gb": 12, "peak_gbps": 360}
    speeds = (("F16", "16.0", 8.5), ("Q8_0", 8.5, 18.2), ("Q4_K_M", 4.9, 32.4), ("IQ2_XS", 2.8, 44.1))
    found = judged(*(line(quant, size_gb=gb, tok_s=tok_s, **card) for quant, gb, tok_s in speeds))
    assert "bandwidth-wall" not in {code for one in found.rows for code in codes(one)}
    assert "32 to 41 %" in found.groups[0].sentence and "34 to 44 %" in found.groups[0].sentence
    assert codes(found.rows[0])[0] == "does-not-fit" and found.rows[0].tainted
    assert "The wall begins at 43.0" in found.rows[2].findings[0].sentence


def test_the_threshold_of_the_wall_can_be_moved() -> None:
    strict = msgspec.structs.replace(DEFAULTS, wall=0.8)
    found = audit(table.parse(written(CASE), "t.csv"), strict)
    assert [one.row.quant for one in found.rows if codes(one)[0] == "bandwidth-wall"] == ["Q6_K"]


def test_more_than_the_bus_can_carry_is_impossible_at_the_real_size() -> None:
    """35 GB at 20 tok/s is 700 of 800 GB/s; the quant's real 42.5 GB are more than the memory carries."""
    one = judged(line("Q4_K_M", model=SEVENTY, size_gb=35, tok_s=20, memory_gb=64, peak_gbps=800)).rows[0]
    assert codes(one) == ["impossible", "size-contradicts"] and one.tainted
    assert one.weights.gb == pytest.approx(42.5, abs=0.05) and one.weights.how == "computed"


@pytest.mark.parametrize(("device", "claim", "code"), [
    ("2x Card", "", "impossible"),
    ("2 x Card", "", "impossible"),
    ("2x Card", "tensor parallel", "bandwidth-wall"),
    ("2x Card", "row split", "bandwidth-wall"),
    ("Card 2x", "", "bandwidth-wall"),
])  # fmt: skip
def test_cards_split_by_layers_read_one_after_another(device: str, claim: str, code: str) -> None:
    """40 tok/s of 42.5 GB is 84 % of the sum of two cards: possible with tensors split, not with layers."""
    row = line("Q4_K_M", model=SEVENTY, device=device, tok_s=40, memory_gb=48, peak_gbps=2016, claim=claim)
    found = only(row)
    assert found.code == code
    assert ("by layers" in found.words) == (code == "impossible")


def test_a_slow_pair_of_cards_is_held_against_one() -> None:
    """20 tok/s of 42.5 GB is 42 % of the sum and 83 % of one card, which is what layers can have."""
    row = line("Q4_K_M", model=SEVENTY, device="2x Card", tok_s=20, memory_gb=48, peak_gbps=2016)
    assert only(row).words == "wall 83%"


def test_only_the_experts_in_use_are_read() -> None:
    """Mixtral's 28 GB at 60 tok/s would be 1680 GB/s; of two experts of eight it is some 450."""
    row = line("Q4_K_M", model="Mixtral-8x7B", tok_s=60, memory_gb=48, peak_gbps=900)
    (one,) = judged(row).rows
    assert one.bus is not None and one.bus.whole is None
    assert one.bus.gb_s == pytest.approx(60 * 7.6, rel=0.05)


def test_an_unknown_model_has_no_bytes_but_an_upper_bound() -> None:
    """Its whole file is the most that a token reads: below the wall it tells something, above it nothing."""
    low = only(line("Q4_K_M", model="Nobody-13B", size_gb=8, tok_s=10, peak_gbps=800))
    high = only(line("Q4_K_M", model="Nobody-13B", size_gb=8, tok_s=80, peak_gbps=800))
    none = only(line("Q4_K_M", model="Llama-3.1-13B", tok_s=80, peak_gbps=800))
    assert (low.code, low.words) == ("unexplained", "unexplained <10%")
    assert (high.kind, none.kind) == ("", "")
    assert "No known shape by that name: nothing was computed from its size" in none.sentence


def test_an_eighth_of_the_bus_is_bytes_taken_for_bits() -> None:
    """15 tok/s of 120 GB/s / 8 / GB, in the speed or in the claim; other figures are let be."""
    active = judged(CASE[2]).rows[0].weights.active
    assert active is not None
    slip = line("Q4_K_M", size_gb=4.9, tok_s=f"{15 / active:.3f}", **M)
    assert "divided-by-8" in codes(judged(slip).rows[0])
    for claim in ("only 15 GB/s", f"expect {15 / 4.9:.2f} tok/s", f"{15 / 4.9:.2f} tokens/s at best"):
        assert codes(judged(line("Q4_K_M", size_gb=4.9, claim=claim, **M)).rows[0]) == ["divided-by-8"], claim
    for claim in ("only 120 GB/s", "15 tok/s/W", "115 GB/s", "15 W", "1.15 GB/s"):
        assert "divided-by-8" not in codes(judged(line("Q4_K_M", size_gb=4.9, claim=claim, **M)).rows[0]), claim


@pytest.mark.parametrize(("claim", "told_off"), [
    ("memory-bound", True), ("bandwidth limited", True), ("not bandwidth-bound", False), ("it isn't bandwidth", False),
    ("great", False),
])  # fmt: skip
def test_a_claim_of_bandwidth_is_answered(claim: str, told_off: bool) -> None:
    said = only(line("Q8_0", size_gb=8.5, tok_s=3, claim=claim, **M)).sentence
    assert ("The claim says so" in said) == told_off


# --- swap, efficiency -----------------------------------------------------------------------------------------------


def test_an_efficiency_measured_while_swapping_is_contaminated_and_its_cause_unproven() -> None:
    """6.96 tok/s/W x 2.4 W = 16.7 tok/s: near the wall at the quant's size, which swapping does not give."""
    one = judged(*CASE).rows[3]
    (found,) = one.findings
    assert (found.code, found.kind) == ("swap-contaminated", "contaminated")
    assert all(
        words in found.sentence
        for words in ("16.7 tok/s", "near the wall", "swap was idle", "power is wrong", "unproven")
    )


def test_a_tainted_efficiency_never_wins() -> None:
    """The best of clean figures comes first, however much higher a tainted one is."""
    clean = line("Q4_K_M", size_gb=4.9, tok_s=19.7, tok_s_per_w=1.5, **M)
    better = line("Q6_K", size_gb=6.6, tok_s=16.3, tok_s_per_w=2.5, **M)
    ranking = judged(*CASE, clean, better).ranking
    assert [(one.tok_s_per_w.value, one.counts) for one in ranking] == [(2.5, True), (1.5, True), (6.96, False)]
    assert "6.96*" in told.report(judged(*CASE, clean))


@given(st.lists(st.tuples(st.sampled_from(["yes", "no", ""]), st.floats(0.01, 1000)), min_size=1, max_size=8))
def test_no_swapped_figure_stands_before_one_that_counts(given_: list[tuple[str, float]]) -> None:
    rows = [line("Q4_K_M", swapped=swapped, tok_s_per_w=f"{value:.3f}") for swapped, value in given_]
    counts = [one.counts for one in judged(*rows).ranking]
    assert counts == sorted(counts, reverse=True)
    assert sum(not one for one in counts) == sum(swapped == "yes" for swapped, _ in given_)


@pytest.mark.parametrize(
    ("watts", "words"), [("60", "more than the memory can carry"), ("0.3", "swapping might leave that")]
)
def test_the_power_of_a_swapped_figure_is_weighed(watts: str, words: str) -> None:
    assert words in only(line("Q5_K_S", tok_s_per_w=6.96, swapped="yes", claim=f"{watts} W", **M)).sentence


def test_a_swapped_row_without_a_figure_taints_nothing() -> None:
    assert only(line("Q5_K_S", swapped="yes", **M)).kind == ""


def test_speed_power_and_efficiency_must_multiply() -> None:
    wrong = line("Q4_K_M", size_gb=4.9, tok_s=19.7, tok_s_per_w="2.0", claim="20 W", **M)
    right = line("Q4_K_M", size_gb=4.9, tok_s=19.7, tok_s_per_w="2.0", claim="10 W", **M)
    assert codes(judged(wrong).rows[0])[0] == "efficiency-contradicts"
    assert codes(judged(right).rows[0]) == ["bandwidth-wall"]


def test_a_power_that_means_an_impossible_speed_is_wrong() -> None:
    assert only(line("Q4_K_M", size_gb=4.9, tok_s_per_w=10, claim="20 W", **M)).code == "impossible"


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "size", "extra", "code", "kind"), [
    (12, "16.0", {"tok_s": 8.5}, "does-not-fit", "contaminated"),
    (12, "16.0", {"claim": "fits"}, "does-not-fit", "contaminated"),
    (12, "16.0", {"claim": "does not fit"}, "does-not-fit", "caution"),
    (12, "16.0", {}, "does-not-fit", "caution"),
    (15, "16.0", {}, "edge-of-memory", "caution"),
    (24, "16.0", {}, "consistent", "explained"),
])  # fmt: skip
def test_weights_fit_or_do_not(memory: int, size: str, extra: dict[str, Any], code: str, kind: str) -> None:
    """A maker's 15 GB may be 16.1e9 bytes, which 16e9 of weights would fill."""
    found = judged(line("F16", memory_gb=memory, size_gb=size, **extra)).rows[0].findings[0]
    assert (found.code, found.kind) == (code, kind)


def test_a_size_that_is_none_does_not_make_it_fit() -> None:
    """35 GB would be too much for 24 as well; 18 GB would not, but Q2_K of 70B takes 26."""
    one = judged(line("Q2_K", model=SEVENTY, size_gb=18, memory_gb=24, claim="fits")).rows[0]
    assert codes(one) == ["does-not-fit", "size-contradicts"]


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "quant", "size", "words"), [
    (SEVENTY, "Q4_K_M", "35", "4 bits x 70e9 weights, but Q4_K_M takes 4.82 bits a weight here, about 42.5 GB"),
    (SEVENTY, "Q8_0", "70", "8 bits x 70e9"),
    (SEVENTY, "Q5_K_M", "43.75", "5 bits x 70e9"),
    (SEVENTY, "Q3_K_M", "26", "3 bits x 70e9"),
    (EIGHT, "Q8_0", "8", "8 bits x 8e9"),
    (EIGHT, "Q4_K_M", "4", "4 bits x 8e9"),
    (EIGHT, "Q4_K_M", "4.58", "In GiB it would be right"),
    (EIGHT, "IQ2_XS", "2.8", "7.8 % more"),
    (EIGHT, "Q4_K_M", "4900", "times the quant's"),
    (EIGHT, "Q4_K_M", "0.1", "98 % less"),
])  # fmt: skip
def test_a_size_that_contradicts_the_real_bits(model: str, quant: str, size: str, words: str) -> None:
    found = only(line(quant, model=model, size_gb=size))
    assert found.code == "size-contradicts" and words in found.sentence


@pytest.mark.parametrize(("model", "quant", "size"), [
    (EIGHT, "F16", "16"), (EIGHT, "FP16", "16"), (EIGHT, "Q4_K_M", "4.9"), (EIGHT, "Q4_K_M", "4.92"),
    (EIGHT, "Q4_K_M", "5"), (EIGHT, "Q8_0", "8.5"), (EIGHT, "q8_0", "8.54"), (SEVENTY, "F16", "140"),
    (SEVENTY, "F32", "280"), (SEVENTY, "Q4_K_M", "42.52"), ("Mixtral-8x22B", "Q4_K_M", "85.58"),
    ("Mistral-7B", "Q4_K_M", "4.37"),
])  # fmt: skip
def test_real_sizes_are_let_be(model: str, quant: str, size: str) -> None:
    """Those of files that people download, and round ones that are right within their digits."""
    assert only(line(quant, model=model, size_gb=size)).code == "consistent"


@pytest.mark.parametrize("quant", [quant.name for quant in quants.QUANTS if quant.family != "microscaling"])
def test_a_blank_size_is_filled_from_the_known_shape(quant: str) -> None:
    """With the quant's own bits, and called about; what is published is not touched."""
    one = judged(line(quant, tok_s=1, peak_gbps=100)).rows[0]
    assert one.weights.how == "computed" and one.row.size_gb is None
    assert one.weights.gb == pytest.approx(8.030261248 * quants.BY_NAME[quant].bits_per_weight / 8, rel=1e-6)


def test_a_size_near_the_real_one_stays_the_sources() -> None:
    """It may be of a file with another mix: it is noted, and reckoned with."""
    one = judged(line("IQ2_XS", size_gb=2.8, tok_s=10, peak_gbps=100)).rows[0]
    assert (one.weights.gb, one.weights.how) == (2.8, "published")


# --- perplexity -----------------------------------------------------------------------------------------------------


def test_deltas_that_their_digits_allow_are_let_be() -> None:
    base = line("F16", ppl=6.233160, ppl_delta_pct=0)
    for quant, ppl, delta in (("Q8_0", 6.234284, 0.02), ("Q4_K_M", 6.407115, 2.79), ("Q2_K", 9.751568, 56.45)):
        assert codes(judged(line(quant, ppl=ppl, ppl_delta_pct=delta), base).rows[0]) == ["consistent"]
    assert codes(
        judged(line("Q2_K", ppl=11.15, ppl_delta_pct=29), line("Q8_0", ppl=8.66, ppl_delta_pct=0)).rows[0]
    ) == ["consistent"]


@given(st.floats(2, 50), st.floats(0.2, 100), st.integers(1, 4), st.integers(0, 3))
def test_no_delta_is_doubted_that_was_rounded_from_its_own_values(
    base: float, delta: float, places: int, digits: int
) -> None:
    """Whatever is printed with however many digits: true values never contradict themselves."""
    ppl = base * (1 + delta / 100)
    rows = (
        line("F16", ppl=f"{base:.{places}f}", ppl_delta_pct=0),
        line("Q4_K_M", ppl=f"{ppl:.{places}f}", ppl_delta_pct=f"{delta:.{digits}f}"),
    )
    assert "delta-contradicts" not in codes(judged(*rows).rows[1])


@given(st.floats(2, 50), st.floats(1, 100), st.floats(1.3, 3))
def test_a_delta_that_is_off_is_called_so(base: float, delta: float, factor: float) -> None:
    rows = (
        line("F16", ppl=f"{base:.4f}", ppl_delta_pct=0),
        line("Q4_K_M", ppl=f"{base * (1 + delta / 100):.4f}", ppl_delta_pct=f"{delta * factor:.2f}"),
    )
    assert codes(judged(*rows).rows[1]) == ["delta-contradicts"]


def test_deltas_against_a_base_that_is_not_published_are_seen() -> None:
    """8.68 over 8.66 is 0.12 to 0.35 %, not 0.4; all of the deltas fit a base near 8.65."""
    rows = [
        line("Q8_0", ppl=8.66, ppl_delta_pct=0),
        line("Q6_K", ppl=8.68, ppl_delta_pct=0.4),
        line("Q4_K_M", ppl="8.80", ppl_delta_pct=1.7),
        line("Q3_K_M", ppl=9.21, ppl_delta_pct=6.4),
    ]
    found = judged(*rows).rows
    assert [codes(one)[0] for one in found[1:]] == ["delta-contradicts", "consistent", "consistent"]
    assert "fit a base of 8.647 to 8.655" in found[1].findings[0].sentence


def test_the_base_is_the_zero_row_of_most_bits_else_the_unquantized_one() -> None:
    zeros = judged(
        line("Q8_0", ppl=7, ppl_delta_pct=0),
        line("F16", ppl=6, ppl_delta_pct=0),
        line("Q4_0", ppl=6.6, ppl_delta_pct=10),
    )
    floats = judged(line("F16", ppl=6), line("Q4_0", ppl=6.6, ppl_delta_pct=10))
    assert codes(zeros.rows[2]) == codes(floats.rows[1]) == ["consistent"]
    without = judged(line("Q8_0", ppl=6), line("Q4_0", ppl=6.6, ppl_delta_pct=99))
    assert codes(without.rows[1]) == ["not-judged"]


def test_bases_of_other_sources_devices_and_models_are_not_borrowed() -> None:
    for other in ({"source": "t"}, {"device": "e"}, {"model": "Llama-3.1-8B-Instruct"}):
        rows = (line("F16", ppl=6, ppl_delta_pct=0), line("Q4_0", ppl=9, ppl_delta_pct=1, **other))
        found = {one.row.quant: one for one in judged(*rows).rows}
        assert codes(found["Q4_0"]) == ["not-judged"]


def test_a_quant_better_than_its_base_is_noted() -> None:
    assert codes(judged(line("F16", ppl="6.00"), line("Q4_K_M", ppl="5.80")).rows[1]) == ["better-than-base"]
    assert codes(judged(line("Q4_K_M", ppl_delta_pct=-2)).rows[0]) == ["better-than-base"]
    assert codes(judged(line("F16", ppl="6.00"), line("Q8_0", ppl=5.999)).rows[1]) == ["not-judged"]


def test_sources_that_disagree_on_the_same_weights() -> None:
    """45 % apart is another text, context or base, and so are increases that no digits reconcile."""
    rows = [line("F16", source=source, ppl=base) for source, base in (("one", "5.96"), ("two", "8.66"))]
    rows += [line("Q4_K_M", source="one", ppl="6.01"), line("Q4_K_M", source="two", ppl="8.80")]
    f16, q4 = judged(*rows).comparisons
    assert (f16.quant, f16.kind, q4.quant) == ("F16", "caution", "Q4_K_M")
    assert "two is 45 % above one, so of another text, context or base" in f16.sentence
    assert "the increases differ too" in q4.sentence
    assert [entry.increase.text for entry in q4.entries if entry.increase] == ["+0.84 %", "+1.62 %"]


def test_sources_that_agree_are_said_to() -> None:
    (found,) = judged(line("Q8_0", source="one", ppl="6.234"), line("Q8_0", source="two", ppl="6.2343")).comparisons
    assert found.kind == "explained" and "agree" in found.sentence


def test_other_weights_of_one_shape_are_not_called_the_same() -> None:
    """Llama-3 and Llama-3.1: 4.6 % may be the models'."""
    (found,) = judged(
        line("Q8_0", source="one", ppl=5.96004), line("Q8_0", source="two", model="Llama-3-8B", ppl=6.234284)
    ).comparisons
    assert found.kind == "caution"
    assert "is 4.6 % above" in found.sentence and "another model of that shape" in found.sentence


def test_one_source_is_no_comparison() -> None:
    assert (
        judged(line("Q8_0", ppl=6), line("Q8_0", ppl=7, device="e"), line("Q8_0", ppl=7, model=SEVENTY)).comparisons
        == ()
    )


# --- what is never judged -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cells", [
    {"claim": "Mathematically Identical"}, {"claim": "~99.5%"}, {"ppl": 6.2}, {"tok_s_per_w": 3}, {"memory_gb": 16},
    {"model": "", "size_gb": 4}, {"model": "Nobody-7B", "size_gb": 4}, {"quant": "4-bit", "size_gb": 4},
    {"quant": "", "tok_s": 4}, {"quant": "", "claim": "lowest quant: crashed", "memory_gb": 12, "model": SEVENTY},
])  # fmt: skip
def test_rows_without_enough_columns_have_nothing_to_check(cells: dict[str, Any]) -> None:
    found = only(line(**{"quant": "Q8_0"} | cells))
    assert (found.kind, found.words) == ("", "nothing to check")


TEXT = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_characters=",\"'#"), min_size=1, max_size=20
)


@given(TEXT, TEXT)
def test_no_verdict_hangs_on_the_name_of_a_source_or_device(source: str, device: str) -> None:
    """The same columns under other names: the same findings."""
    here = table.parse(written(CASE), "t.csv")
    names = {"source": source, "device": f"a {device}"}
    there = Table("t.csv", tuple(msgspec.structs.replace(row, **names) for row in here.rows))
    assert [one.findings for one in audit(here).rows] == [one.findings for one in audit(there).rows]


def test_codes_of_speeds_and_memory_are_the_verdicts() -> None:
    """Where a verdict has a word for it, the audit has no other."""
    ours = {code for one in judged(*CASE).rows for code in codes(one)}
    assert ours == {"unexplained", "bandwidth-wall", "swap-contaminated"} and ours < set(CODES)


# --- reading --------------------------------------------------------------------------------------------------------

HEADER = ",".join(COLUMNS).encode() + b"\n"

BAD: list[tuple[str, bytes, str]] = [
    ("empty", b"", "t.csv: is empty"),
    ("only comments", b"# nothing\n\n  # here\n", "t.csv: is empty"),
    ("no rows", HEADER, "has no rows"),
    ("no quant column", b"# c\nmodel,size_gb\nx,1\n", "line 2: has no column quant"),
    ("no columns", b"1,2,3\n", "line 1: has no column model and no quant"),
    ("semicolons", b"model;quant\nx;y\n", "parted by commas"),
    ("tabs", b"model\tquant\nx\ty\n", "parted by commas"),
    ("a column twice", b"model,quant,Size_GB, size_gb\nx,y,1,2\n", "line 1: names the column size_gb twice"),
    ("binary", bytes(range(256)), "line"),
    ("zeros", b"model,quant\n\0\0\0", "line 2: holds bytes that are no text"),
    ("latin-1", b"model,quant\nx,y\n\xe9,z\n", "line 3: holds bytes that are no text"),
    ("UTF-16", "model,quant\n".encode("utf-16"), "UTF-16"),
    ("a quote that never ends", b'model,quant\nx,"y\nz\n', "line 2: is no CSV"),
    ("a quote in a cell", b'model,quant\nx,"y"z\n', "line 2: is no CSV"),
    ("a giant cell", b'model,quant\nx,"' + b"y" * 200_000 + b'"\n', "line 2: is no CSV"),
    ("many rows", b"model,quant\n" + b"x,y\n" * 5001, "more than 5000 rows"),
]


@pytest.mark.parametrize(("raw", "says"), [(raw, says) for _, raw, says in BAD], ids=[name for name, _, _ in BAD])
def test_what_is_no_table_is_one_line_that_says_where(raw: bytes, says: str) -> None:
    with pytest.raises(UserError) as found:
        table.parse(raw, "t.csv")
    said = str(found.value)
    assert said.startswith("t.csv") and says in said and said.isprintable()


@pytest.mark.parametrize(("column", "cell"), [
    ("size_gb", "4.9 GB"), ("peak_gbps", "120GB/s"), ("memory_gb", "16G"), ("ppl_delta_pct", "6.4%"),
    ("tok_s", "-3"), ("tok_s", "0"), ("tok_s", "nan"), ("tok_s", "inf"), ("tok_s", "1e400"), ("tok_s", "\x1b[31m20"),
    ("ppl", "0.5"), ("ppl", "-1"), ("ppl_delta_pct", "-101"), ("swapped", "maybe"), ("tok_s_per_w", "[bold]3[/]"),
    ("size_gb", "4,9"), ("size_gb", "~5"), ("size_gb", "1e9"), ("size_gb", "0x10"), ("size_gb", "1_000"),
    ("size_gb", "\u0664"), ("size_gb", "0e99"),
])  # fmt: skip
def test_a_cell_that_cannot_be_is_not_published_and_noted(column: str, cell: str) -> None:
    """The note names line and column, and is safe to print; the rest of the row is judged."""
    found = table.parse(written([line("Q8_0", **{column: cell})]), "t.csv")
    assert getattr(found.rows[0], column) is None
    (note,) = found.notes
    assert note.startswith(f"line 2, {column}: ") and note.endswith("taken as not published") and note.isprintable()


def test_a_table_may_lack_columns_have_others_and_be_in_any_order() -> None:
    found = table.parse(b"Quant , colour,MODEL\nQ8_0,red,m\n", "t.csv")
    assert (found.rows[0].quant, found.rows[0].model, found.rows[0].source) == ("Q8_0", "m", "")
    assert found.notes == ("line 1: columns that are not read: colour",)


def test_bom_crlf_comments_blank_lines_and_quotes_are_read() -> None:
    raw = b'\xef\xbb\xbf# a "comment, \r\n\r\nmodel,quant,claim\r\n # more\r\n'
    raw += b'm,Q8_0,"a, b\r\n# inside ""c"""\r\n,,\r\nn,Q6_K\r\n'
    found = table.parse(raw, "t.csv")
    assert [(row.line, row.model, row.quant, row.claim) for row in found.rows] == [
        (5, "m", "Q8_0", 'a, b # inside "c"'),
        (8, "n", "Q6_K", ""),
    ]
    assert found.notes == ()


def test_a_row_with_too_many_cells_is_not_judged() -> None:
    found = table.parse(b"model,quant\nm,Q8_0,,\nm,Q6_K,surplus\n", "t.csv")
    assert [row.quant for row in found.rows] == ["Q8_0"]
    assert found.notes[0].startswith("line 3: has 3 cells, the header 2")


@pytest.mark.parametrize(("text", "low", "high"), [
    ("35", 34.5, 35.5), ("35.0", 34.95, 35.05), (".5", 0.45, 0.55), ("5.", 4.5, 5.5), ("1e2", 50, 150),
    ("1.5e1", 14.5, 15.5), ("+7", 6.5, 7.5),
])  # fmt: skip
def test_a_number_may_be_all_that_rounds_to_it(text: str, low: float, high: float) -> None:
    figure = table.parse(written([line("Q8_0", size_gb=text)]), "t.csv").rows[0].size_gb
    assert figure is not None
    assert figure.text == text
    assert (figure.low, figure.high) == pytest.approx((low, high))


def test_a_file_that_is_none_or_too_large_is_told(tmp_path: Path) -> None:
    large = tmp_path / "large.csv"
    with open(large, "wb") as file:
        file.truncate(100 * 2**20)
    for path, says in (
        (large, "larger than 4 MiB"),
        (tmp_path, "cannot be read"),
        (tmp_path / "none.csv", "cannot be read"),
    ):
        with pytest.raises(UserError, match=says):
            table.read(path)


# --- anything at all ------------------------------------------------------------------------------------------------

JUNK = st.text(max_size=30)
NUMBER = st.one_of(
    st.floats().map(str),
    st.integers(-10, 10**12).map(str),
    st.floats(0.01, 1000).map(lambda value: f"{value:.2f}"),
    JUNK,
)
CELLS = st.fixed_dictionaries(
    {
        "source": st.sampled_from(["", "a", "b"]) | JUNK,
        "device": st.sampled_from(["", "2x c", "999x c", "0x c"]) | JUNK,
        "model": st.sampled_from([EIGHT, SEVENTY, "Llama-3-8B", "Mixtral-8x7B", "Qwen2.5-0.5B", "Llama-3.2-1B"]) | JUNK,
        "quant": st.sampled_from([quant.name for quant in quants.QUANTS]) | JUNK,
        "swapped": st.sampled_from(["", "yes", "no", "YES"]) | JUNK,
        "claim": st.sampled_from(["", "fits", "2.4 W", "15 GB/s", "bandwidth; GPU 80 %", "tensor split"]) | JUNK,
        **dict.fromkeys(NUMBERS, NUMBER),
    }
)


def check_report(found: Audit) -> None:
    """What holds of every report."""
    text = told.report(found)
    assert all(len(each) <= told.WIDTH for each in text.split("\n"))
    assert all(char.isprintable() or char == "\n" for char in text)
    assert f"{len(found.rows)} rows" in " ".join(text.split("\n")[-3:])
    json.dumps(told.data(found), allow_nan=False)
    assert all(one.findings for one in found.rows)


@given(st.lists(CELLS, min_size=1, max_size=8))
def test_any_cells_make_a_report_that_can_be_printed(rows: list[dict[str, str]]) -> None:
    """100 columns, no control characters, JSON without NaN; or one clear line."""
    try:
        found = table.parse(written(rows), "t.csv")
    except UserError as error:
        assert str(error).isprintable()
        return
    check_report(audit(found))


@given(
    st.binary(max_size=400)
    | st.text(max_size=200).map(str.encode)
    | st.text(max_size=200).map(lambda text: HEADER + text.encode())
)
def test_any_bytes_are_a_table_or_one_clear_line(raw: bytes) -> None:
    try:
        found = table.parse(raw, "t.csv")
    except UserError as error:
        assert str(error).startswith("t.csv") and str(error).isprintable()
        return
    check_report(audit(found))


FIGURE = st.one_of(
    st.none(), st.builds(lambda value, half: Figure("1", value, half * value), st.floats(1, 1e5), st.floats(0, 0.5))
)


ROW = st.builds(
    Row,
    line=st.integers(1, 100),
    source=st.just("s"),
    model=st.sampled_from([EIGHT, SEVENTY]),
    quant=st.sampled_from(["Q8_0", "Q4_K_M", "F16"]),
    claim=st.sampled_from(["", "2 W", "fits"]),
    swapped=st.sampled_from([None, True, False]),
    **dict.fromkeys(NUMBERS, FIGURE),
)


@given(st.lists(ROW, max_size=10, unique_by=lambda row: row.line))
def test_what_is_said_to_be_at_the_wall_is_between_it_and_the_peak(rows: list[Row]) -> None:
    """And no row is at the wall that swapped, does not fit or moves more than there is."""
    for one in audit(Table("t", tuple(rows))).rows:
        share = one.bus.share if one.bus else None
        if "bandwidth-wall" in codes(one):
            assert share is not None and DEFAULTS.wall <= share <= 1
            assert not one.row.swapped and "does-not-fit" not in codes(one)
        if share is not None and share > 1:
            assert one.tainted


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "published.csv"
    path.write_bytes(written(CASE))
    return path


def test_the_command_prints_the_audit(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(file)]) == 0
    out = capsys.readouterr().out
    assert all(
        words in out for words in ("s: d, 16 GB, 120 GB/s", "[=] wall 76%", "0.13*", "6.96*/W", "none that counts")
    )
    assert out.splitlines()[-2].startswith("6 rows: 2 [!!] contaminated, 2 [!] caution, 2 [=] explained")


def test_the_command_prints_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["counts"]["contaminated"]) == (1, 2)
    row = found["groups"][0]["rows"][5]
    assert (row["row"]["quant"], row["row"]["line"], row["kind"]) == ("Q8_0", 7, "contaminated")
    assert row["bus"]["share"] == pytest.approx(0.0086, abs=1e-4)
    assert row["expected"]["tok_s"] == pytest.approx(12, abs=0.1)
    assert found["ranking"][0]["counts"] is False


def test_the_command_takes_the_configured_wall(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text("[thresholds]\nwall = 0.8\n", encoding="utf-8")
    assert cli.main(["audit", str(file), "--config", str(settings)]) == 0
    assert "[!] unexplained 76%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "says"), [(None, "cannot be read"), (b"", "is empty"), (b"a,b\n1,2\n", "has no column")]
)
def test_bad_input_is_one_line_and_exit_code_2(
    content: bytes | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t\x1b[31m.csv"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["audit", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and says in err and "\x1b" not in err


def test_a_table_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit"]) == 2
    assert "TABLE.csv" in capsys.readouterr().err

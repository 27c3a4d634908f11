"""What the tasks say of the quants: which items are paired, what is counted, which differences are called real."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui import events as e
from quanttui import state as fold
from quanttui.decide import study as decided
from quanttui.decide.study import Finding, Standing, Study
from quanttui.report import json as as_json
from quanttui.report import study as words
from quanttui.report import text as as_text
from quanttui.stats.paired import accuracy_sequence, difference_sequence

RESAMPLES = 500
"""Enough for what is tested here: coverage is stats.paired's own."""


@dataclass(frozen=True)
class Said:
    """An answer to an item: right, wrong, or None for one that says nothing; `more` are other fields of the event."""

    correct: bool | None = True
    group: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


Answered = Mapping[str, Mapping[str, Said]]
"""By arm and by item."""


def said(correct: bool | None = True, group: str = "", **more: Any) -> Said:
    return Said(correct, group, more)


def log(tasks: Mapping[str, Answered], seed: int | None = None, **asked: Any) -> list[e.Event]:
    """A session in which the arms, in the order in which they are first named, answered; `seed` shuffles the items."""
    names = dict.fromkeys(arm for answered in tasks.values() for arm in answered)
    made = builders.Log(tuple(builders.Arm(name.split()[0], id=name) for name in names), builders.settings(**asked))
    made.open()
    for name in names:
        for task, answered in tasks.items():
            planned = max(map(len, answered.values()))
            items = list(answered.get(name, {}).items())
            if seed is not None:
                random.Random(seed).shuffle(items)
            for index, (item, one) in enumerate(items):
                unit = e.Unit(arm=name, kind="task", index=index, task=task, item=item)
                prompt = hashlib.sha256(item.encode()).hexdigest()
                told = e.Item(
                    unit=unit, items=planned, prompt=prompt, form="chat", answer="so", stopped="eos", tokens=3,
                    prompt_tokens=9, at=made.t, ns=10**6, correct=one.correct, expected="so", group=one.group,
                )  # fmt: skip
                made.put(msgspec.structs.replace(told, **one.more))
    return made.events


def made(tasks: Mapping[str, Answered], **more: Any) -> Study:
    return decided.study(fold.fold(log(tasks, **more)), RESAMPLES)


def pattern(right: str, group: str = "") -> dict[str, Said]:
    """Answers to items 000, 001, …: 1 right, 0 wrong, - none."""
    return {f"{index:03}": said(one == "1", group) for index, one in enumerate(right) if one != "-"}


def finding(found: Study, arm: str, task: str = "traps") -> Finding:
    (one,) = [one for one in found.findings if (one.task, one.arm) == (task, arm)]
    return one


def standing(found: Study, arm: str, task: str = "traps") -> Standing:
    (one,) = [one for one in found.standings if (one.task, one.arm) == (task, arm)]
    return one


def measures(found: Study, arm: str, task: str) -> dict[str, decided.Measure]:
    return {one.name: one for one in standing(found, arm, task).measures}


# --- what is paired -------------------------------------------------------------------------------------------------


def test_pairs_are_the_items_that_all_arms_have_and_their_number_is_said() -> None:
    found = made({"traps": {"F16": pattern("1" * 40), "Q8_0": pattern("1" * 40), "Q2_K": pattern("10101")}})
    assert {one.n for one in found.findings} == {5}
    assert {one.excluded for one in found.findings} == {35}
    assert (finding(found, "Q2_K").lost, finding(found, "Q2_K").gained) == (2, 0)
    assert measures(found, "Q8_0", "traps")["accuracy"].n == 40
    assert (standing(found, "Q2_K").answers, standing(found, "Q2_K").planned) == (5, 40)
    (section,) = words.sections(found)
    assert any("5 pairs" in line and "35 more" in line and "Q2_K has 5 of 40" in line for line in section.lines)


def test_items_that_were_asked_in_other_words_are_no_pairs() -> None:
    other = pattern("1111") | {"001": said(True, prompt="cd" * 32)}
    found = made({"traps": {"F16": pattern("1111"), "Q8_0": other}})
    assert (finding(found, "Q8_0").n, finding(found, "Q8_0").excluded) == (3, 1)


def test_nothing_in_common_gives_no_finding_and_says_so() -> None:
    other = {item: said(True, prompt=item) for item in pattern("11")}
    found = made({"traps": {"F16": pattern("11"), "Q8_0": other}})
    assert found.findings == () and len(found.standings) == 2
    assert "no item was answered by all quants in the same words" in words.sections(found)[0].lines[0]


def test_a_prompt_that_is_too_long_is_counted_and_is_neither_right_nor_wrong() -> None:
    cut = pattern("1110") | {"001": said(None, stopped="context")}
    found = made({"traps": {"F16": pattern("1110"), "Q8_0": cut}})
    assert standing(found, "Q8_0").too_long == 1 and standing(found, "Q8_0").answers == 4
    assert measures(found, "Q8_0", "traps")["accuracy"].n == 3
    assert (finding(found, "Q8_0").n, finding(found, "Q8_0").excluded) == (3, 1)
    (section,) = words.sections(found)
    assert [row[1] for row in section.tables[-1].rows] == ["4/4", "3/4"]
    assert any("1 more are left out (Q8_0 has 3 of 4; prompts too long" in line for line in section.lines)


def test_where_no_prompt_has_room_that_is_said() -> None:
    without = {item: said(None, stopped="context") for item in pattern("11")}
    (section,) = words.sections(made({"mmlu": {"F16": without, "Q8_0": without}}))
    assert section.lines == ("No prompt left room for an answer.",)


def test_an_answer_that_ended_while_it_thought_is_wrong() -> None:
    silent = pattern("1111") | {"001": said(None, stopped="length", thought=16)}
    found = made({"traps": {"F16": pattern("1111"), "Q8_0": silent}})
    assert measures(found, "Q8_0", "traps")["accuracy"].hits == 3
    assert (finding(found, "Q8_0").lost, standing(found, "Q8_0").cut) == (1, 1)


def test_what_has_no_check_stands_there_without_a_measure() -> None:
    bare = {item: said(None, expected="") for item in pattern("111")}
    found = made({"prompts": {"F16": bare, "Q8_0": bare}})
    assert found.findings == () and [one.measures for one in found.standings] == [(), ()]
    assert "Nothing tells a right answer" in words.sections(found)[0].lines[0]


def test_the_base_is_the_unquantized_one_or_that_which_was_asked_for() -> None:
    tasks = {"traps": {"Q8_0": pattern("1010"), "F16": pattern("1110"), "Q4_K_M": pattern("1000")}}
    assert (made(tasks).base, made(tasks, base="Q8_0").base) == ("F16", "Q8_0")
    assert [one.arm for one in made(tasks).findings] == ["Q8_0", "Q4_K_M"]


def test_a_task_that_the_base_has_not_answered_has_another_base() -> None:
    found = made({
        "traps": {"F16": pattern("11"), "Q8_0": pattern("11"), "Q4_K_M": pattern("10")},
        "prompts": {"Q8_0": pattern("11"), "Q4_K_M": pattern("10")},
    })  # fmt: skip
    assert found.base == "F16"
    assert {one.task: one.base for one in found.findings} == {"traps": "F16", "prompts": "Q8_0"}


def test_a_ghost_answers_nothing() -> None:
    events = log({"traps": {"F16": pattern("11"), "Q8_0": pattern("10")}})
    opened = events[0]
    assert isinstance(opened, e.SessionOpened)
    plan = tuple(msgspec.structs.replace(arm, ghost=arm.id == "Q8_0") for arm in opened.plan)
    found = decided.study(fold.fold([msgspec.structs.replace(opened, plan=plan), *events[1:]]), RESAMPLES)
    assert [one.arm for one in found.standings] == ["F16"] and found.findings == ()


def test_without_an_answer_there_is_nothing() -> None:
    now = builders.state(builders.Arm("Q8_0", tokens=4))
    assert decided.study(now) == Study("", now.settings.margin)
    assert "task " not in as_text.report(now) and as_json.report(now)["tasks"] == []


# --- what is called -------------------------------------------------------------------------------------------------

RIGHTS = st.integers(2, 60).flatmap(lambda n: st.tuples(*[st.lists(st.booleans(), min_size=n, max_size=n)] * 2))


def bits(rights: Sequence[bool]) -> str:
    return "".join("01"[one] for one in rights)


@settings(max_examples=25, deadline=None)
@given(RIGHTS)
def test_the_difference_is_that_of_the_shares_and_turns_round_with_the_arms(rights: tuple[list[bool], ...]) -> None:
    ours, base = rights
    one, other = (
        finding(made({"traps": {"F16": pattern(bits(a)), "Q8_0": pattern(bits(b))}}), "Q8_0")
        for a, b in ((base, ours), (ours, base))
    )
    assert one.delta == pytest.approx(np.mean(ours) - np.mean(base))
    assert one.gained - one.lost == sum(ours) - sum(base)
    assert (one.delta, one.lost, one.gained, one.p) == (-other.delta, other.gained, other.lost, other.p)
    assert one.low <= one.delta <= one.high and one.low < one.high
    turned = {"worse": "better", "better": "worse", "equivalent": "equivalent", "open": "open"}
    assert other.call == turned[one.call]


def test_a_quant_that_loses_much_is_worse_and_one_that_gains_much_is_better() -> None:
    found = made({"traps": {"F16": pattern("10" * 100), "Q8_0": pattern("11" * 100), "Q2_K": pattern("00" * 100)}})
    assert [one.call for one in found.findings] == ["better", "worse"]
    assert all(one.p <= one.p_holm < 0.001 for one in found.findings)


def test_a_difference_that_was_not_found_makes_no_two_quants_equivalent() -> None:
    few = made({"traps": {"F16": pattern("10" * 20), "Q8_0": pattern("10" * 18 + "01" * 2)}})
    assert finding(few, "Q8_0").call == "open" and finding(few, "Q8_0").p_holm == 1.0
    base = "10" * 1500
    ours = base[:-4] + "0101"
    many = finding(made({"traps": {"F16": pattern(base), "Q8_0": pattern(ours)}}), "Q8_0")
    assert many.call == "equivalent" and many.tost_p < 0.05
    for margin in (0.0001, 0.0):
        strict = made({"traps": {"F16": pattern(base), "Q8_0": pattern(ours)}}, margin=margin)
        assert finding(strict, "Q8_0").call == "open"


def test_a_real_difference_within_the_margin_is_called_both() -> None:
    base = "1" * 4000
    found = finding(made({"traps": {"F16": pattern(base), "Q8_0": pattern(base[:-12] + "0" * 12)}}), "Q8_0")
    assert found.call == "worse" and words.called(found) == "worse (within ±1 pp)"


def test_p_values_are_corrected_within_a_task_and_not_across_tasks() -> None:
    base, less = pattern("1" * 60), pattern("1" * 52 + "0" * 8)
    alone = made({"traps": {"F16": base, "Q8_0": less}})
    beside = made({"traps": {"F16": base, "Q8_0": less, "Q4_K_M": less}, "prompts": {"F16": base, "Q8_0": less}})
    p = finding(alone, "Q8_0").p
    assert finding(alone, "Q8_0").p_holm == p
    assert finding(beside, "Q8_0").p_holm == finding(beside, "Q4_K_M").p_holm == pytest.approx(2 * p)
    assert finding(beside, "Q8_0", "prompts").p_holm == p
    assert finding(beside, "Q8_0").detectable > finding(alone, "Q8_0").detectable


def test_more_pairs_show_smaller_differences_and_none_shows_nothing_at_all() -> None:
    found = [
        finding(made({"traps": {"F16": pattern("1" * n), "Q8_0": pattern("1" * n)}}), "Q8_0") for n in (20, 200, 2000)
    ]
    assert found[0].detectable > found[1].detectable > found[2].detectable > 0
    assert all(one.low < 0 < one.high for one in found)


def test_subjects_are_told_by_themselves_corrected_and_only_suggested() -> None:
    subjects = ("anatomy", "logic", "law")
    base = {f"{group}/{i:02}": said(True, group) for group in subjects for i in range(30)}
    ours = {item: said(one.group != "law" or i % 2 == 0, one.group) for i, (item, one) in enumerate(base.items())}
    found = finding(made({"mmlu": {"F16": base, "Q2_K": ours}}), "Q2_K", "mmlu")
    assert [(one.group, one.n) for one in found.subjects] == [("anatomy", 30), ("law", 30), ("logic", 30)]
    law = found.subjects[1]
    assert law.delta == pytest.approx(-0.5) and law.p < law.p_holm == pytest.approx(3 * law.p)
    assert {one.p_holm for one in found.subjects if one.group != "law"} == {1.0}
    assert found.cluster_low is not None and found.cluster_high is not None
    assert found.cluster_high - found.cluster_low > found.high - found.low
    (section,) = words.sections(made({"mmlu": {"F16": base, "Q2_K": ours}}))
    assert any("suggestive" in line and "law -50.0 pp" in line and "logic" not in line for line in section.lines)


def test_one_group_is_no_cluster() -> None:
    found = finding(made({"mmlu": {"F16": pattern("1100", "law"), "Q8_0": pattern("1000", "law")}}), "Q8_0", "mmlu")
    assert found.cluster_low is found.cluster_high is None and found.subjects == ()


# --- entities -------------------------------------------------------------------------------------------------------


def sentence(right: int, wrong: int, missed: int, parsed: bool = True) -> Said:
    group = "entities" if right + missed else "none"
    whole = parsed and not wrong and not missed
    return said(whole, group, parsed=parsed, spans=(right, wrong, missed))


BASE = {"a": sentence(3, 0, 0), "b": sentence(1, 1, 1), "c": sentence(0, 0, 0), "d": sentence(0, 0, 0)}
OURS = {"a": sentence(2, 0, 1), "b": sentence(0, 0, 2, False), "c": sentence(0, 0, 0, False), "d": sentence(0, 2, 0)}


def test_entities_are_counted_over_all_sentences_and_unreadable_answers_score_nothing() -> None:
    found = made({"ner": {"F16": BASE, "Q2_K": OURS}})
    base, ours = measures(found, "F16", "ner"), measures(found, "Q2_K", "ner")
    assert next(iter(base)) == "micro-F1"
    assert {name: one.value for name, one in base.items()} == pytest.approx({
        "micro-F1": 8 / 10, "macro-F1": (1 + 0.5 + 1 + 1) / 4, "precision": 4 / 5, "recall": 4 / 5, "parsed": 1.0,
        "rightly empty": 1.0,
    })  # fmt: skip
    assert {name: one.value for name, one in ours.items()} == pytest.approx({
        "micro-F1": 4 / 9, "macro-F1": 0.8 / 4, "precision": 2 / 4, "recall": 2 / 5, "parsed": 0.5, "rightly empty": 0.0
    })  # fmt: skip
    one = finding(found, "Q2_K", "ner")
    assert (standing(found, "F16", "ner").right, standing(found, "Q2_K", "ner").right) == (3, 0)
    assert one.measure == "micro-F1" and one.delta == pytest.approx(4 / 9 - 8 / 10)
    assert (one.lost, one.gained, one.test) == (3, 0, "bootstrap")
    assert one.subjects == () and one.cluster_low is None


def test_entities_lost_all_over_are_called_and_the_same_answers_are_not() -> None:
    base = {f"{i:03}": sentence(2, 0, 0) for i in range(120)}
    worse = {item: sentence(i % 2, 1, 2 - i % 2) for i, item in enumerate(base)}
    found = made({"ner": {"F16": base, "Q8_0": base, "Q2_K": worse}})
    assert finding(found, "Q2_K", "ner").call == "worse"
    same = finding(found, "Q8_0", "ner")
    assert same.call in ("open", "equivalent") and same.p == same.p_holm == 1.0 and same.delta == 0.0


def test_the_f1_that_would_be_detected_goes_by_the_number_of_sentences() -> None:
    drawn = random.Random(3)

    def of(n: int) -> decided.Finding:
        both = {
            arm: {f"{i:03}": sentence(drawn.randrange(3), drawn.randrange(2), drawn.randrange(2)) for i in range(n)}
            for arm in ("F16", "Q8_0")
        }
        return finding(made({"ner": both}), "Q8_0", "ner")

    few, many = of(50), of(450)
    assert 2 < few.detectable / many.detectable < 4.5
    assert many.detectable > (many.high - many.low) / 2


# --- schemas and thinking -------------------------------------------------------------------------------------------


def test_an_answer_may_meet_its_schema_and_be_wrong() -> None:
    def formed(correct: bool, valid: bool, parsed: bool = True) -> Said:
        return said(correct, valid=valid, parsed=parsed)

    base = {"a": formed(True, True), "b": formed(True, True), "c": formed(False, True), "d": formed(True, True)}
    ours = {
        "a": formed(False, True), "b": formed(False, True), "c": formed(False, False), "d": formed(False, False, False)
    }  # fmt: skip
    found = made({"structured": {"F16": base, "Q2_K": ours}})
    known = measures(found, "Q2_K", "structured")
    assert {name: (one.hits, one.n) for name, one in known.items()} == {
        "content right": (0, 4), "schema-valid": (2, 4), "parsed": (3, 4), "valid but wrong": (2, 4),
    }  # fmt: skip
    assert finding(found, "Q2_K", "structured").measure == "content right"
    (section,) = words.sections(found)
    assert any("F16 1 of 4, Q2_K 2 of 4" in line for line in section.lines)


def thinking(**asked: Any) -> Study:
    ours = {
        "a": said(True, thought=40),
        "b": said(False, thought=0),
        "c": said(None, thought=128, stopped="length"),
        "d": said(True),
        "e": said(None, stopped="context"),
    }
    return made({"traps": {"F16": pattern("1"), "Q8_0": ours}, "mmlu": {"F16": pattern("1")}}, **asked)


def test_thinking_is_counted_over_all_answers_once_one_shows_any() -> None:
    found = thinking()
    base, one = (standing(found, arm, "traps").thought for arm in ("F16", "Q8_0"))
    assert base is not None and one is not None and standing(found, "F16", "mmlu").thought is None
    assert (base.thinking, base.n, base.switch) == (0, 1, "")
    assert (one.n, one.thinking, one.tokens, one.cut) == (4, 2, 168, 1)
    assert one.low < one.share < one.high and one.share == pytest.approx(2 / 4)


@pytest.mark.parametrize(("asked", "of"), [("off", "off"), ("on", "on"), ("both", "off")])
def test_thinking_in_spite_of_the_switch_is_told(asked: str, of: str) -> None:
    found = thinking(thinking=asked)
    one, other = standing(found, "Q8_0", "traps").thought, standing(found, "F16", "mmlu").thought
    assert one is not None and other is not None and {one.switch, other.switch} == {of}
    told = [line for part in words.sections(found) for line in part.lines if "in spite" in line]
    assert [line.endswith("Q8_0 in 2 of 4.") for line in told] == ([True, False] if of == "off" else [])


def test_of_both_ways_the_task_named_so_was_thought_about() -> None:
    found = made({"traps-thinking": {"F16": {"a": said(True, thought=9)}}}, thinking="both")
    one = standing(found, "F16", "traps-thinking").thought
    assert one is not None and (one.switch, one.share) == ("on", 1.0)


# --- while the answers come -----------------------------------------------------------------------------------------


def so_far(now: fold.State, task: str) -> dict[str, decided.Live]:
    """All arms that a task tells something of."""
    found = {arm.id: decided.live(now, task, arm) for arm in now.arms.values()}
    return {name: one for name, one in found.items() if one is not None}


def test_so_far_each_arm_is_paired_with_the_base_by_itself() -> None:
    events = log({"traps": {"F16": pattern("1" * 40), "Q8_0": pattern("1" * 39 + "0"), "Q2_K": pattern("00-1")}})
    found = so_far(fold.fold(events), "traps")
    assert list(found) == ["F16", "Q8_0", "Q2_K"]
    assert found["F16"].against is None and {one.base for one in found.values()} == {"F16"}
    assert found["F16"].value == accuracy_sequence([True] * 40)
    near, far = found["Q8_0"].against, found["Q2_K"].against
    assert near is not None and far is not None
    assert (near.n, far.n) == (40, 3) and near.value == pytest.approx(-1 / 40)
    assert far == difference_sequence([False, False, True], [True] * 3)
    assert found["Q2_K"].planned == 40 and found["Q2_K"].value.n == 3


def test_so_far_entities_are_told_by_whole_sentences() -> None:
    found = so_far(fold.fold(log({"ner": {"F16": BASE, "Q2_K": OURS}})), "ner")
    assert {one.measure for one in found.values()} == {"whole sentences"}
    assert [one.value.value for one in found.values()] == [0.75, 0.0]


def test_so_far_nothing_is_told_of_what_has_no_answer_or_no_check() -> None:
    now = fold.fold(log({"prompts": {"F16": {"a": said(None, expected="")}}}))
    assert so_far(now, "prompts") == so_far(now, "mmlu") == {}


def test_so_far_it_holds_at_every_event() -> None:
    for now in builders.states(study_of_all()):
        for one in so_far(now, "mmlu").values():
            assert one.value.low <= one.value.value <= one.value.high
            assert one.against is None or one.against.low <= one.against.value <= one.against.high


# --- the same each time, and safe -----------------------------------------------------------------------------------


def study_of_all(seed: int | None = None) -> list[e.Event]:
    """Three arms in four tasks."""
    drawn = random.Random(5)
    arms = ("F16", "Q8_0", "Q4_K_M")

    def over(make: Any) -> dict[str, dict[str, Said]]:
        return {arm: {f"{i:03}": make(i) for i in range(40)} for arm in arms}

    def mmlu(i: int) -> Said:
        return said(drawn.random() < 0.6, ("law", "logic", "anatomy")[i % 3], chosen="A")

    tasks = {
        "mmlu": over(mmlu),
        "ner": over(lambda i: sentence(drawn.randrange(3) if i % 4 else 0, drawn.randrange(2), 0)),
        "structured": over(lambda i: said(drawn.random() < 0.5, valid=True, parsed=True)),
        "traps": over(lambda i: said(drawn.random() < 0.9, thought=drawn.randrange(2))),
    }
    return log(tasks, seed)


def test_a_log_gives_the_same_study_each_time_in_whatever_order_its_answers_came() -> None:
    encoded = {
        msgspec.json.encode(decided.study(fold.fold(study_of_all(seed)), RESAMPLES)) for seed in (None, None, 1, 2)
    }
    assert len(encoded) == 1


def test_a_study_does_not_change_what_it_is_made_of() -> None:
    now = fold.fold(study_of_all())
    before = msgspec.json.encode(now)
    decided.study(now, RESAMPLES)
    assert msgspec.json.encode(now) == before


def test_names_from_outside_are_clean_and_no_line_is_too_long() -> None:
    evil = "Q8_0 \x1b[31m\u202e" + "x" * 200
    law = {f"{i}": said(i % 2 == 0, "law\x1b]0;\x07") for i in range(9)} | {"z": said(True, "b\n")}
    events = log({"mmlu\x1b[2J": {"F16": law, evil: law}})
    for plain in (False, True):
        text = as_text.report(fold.fold(events), ascii=plain)
        assert "\x1b" not in text and "\u202e" not in text and "\x07" not in text
        assert max(map(len, text.splitlines())) <= as_text.WIDTH
    assert text.isascii()
    assert "\\u001b" not in json.dumps(as_json.report(fold.fold(events)))


def test_the_text_report_has_a_section_for_each_task_with_what_its_words_mean() -> None:
    now = fold.fold(study_of_all())
    text = as_text.report(now)
    found = decided.study(now)
    for task in ("mmlu", "ner", "structured", "traps"):
        table = text.partition(f"task {task}\n")[2].partition("\n\n")[0].splitlines()
        assert table[0].split()[:2] == ["quant", "right/n"] and table[0].split()[-1] == "call"
        assert [line.split()[0] for line in table[2:]] == ["F16", "Q8_0", "Q4_K_M"]
        one = finding(found, "Q4_K_M", task)
        assert f"{100 * one.delta:+.1f}" in table[4] and f"{one.lost}/{one.gained}" in table[4]
        assert f"{100 * one.low:+.1f} to {100 * one.high:+.1f}" in table[4] and one.call in table[4]
    for line in words.legend(found):
        assert " ".join(line.split()) in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= as_text.WIDTH
    assert as_text.report(now) == text
    assert "task mmlu\n" in as_text.brief(now)


TASK = {"task", "base", "measure", "margin", "pairs", "excluded", "quants"}
QUANT = {"id", "answers", "planned", "cut", "too_long", "right", "thought", "measures", "against"}
MEASURE = {"name", "value", "low", "high", "n", "how", "hits"}
THOUGHT = {"n", "thinking", "tokens", "cut", "share", "low", "high", "switch"}
AGAINST = {
    "n", "excluded", "delta", "low", "high", "cluster_low", "cluster_high", "lost", "gained", "p", "test", "p_holm",
    "call", "tost_p", "detectable", "subjects",
}  # fmt: skip


def test_the_json_report_has_the_study_to_the_key() -> None:
    now = fold.fold(study_of_all())
    found = json.loads(json.dumps(as_json.report(now)["tasks"], allow_nan=False))
    assert [one["task"] for one in found] == ["mmlu", "ner", "structured", "traps"]
    for task in found:
        assert task.keys() == TASK and task["base"] == "F16" and task["pairs"] == 40
        assert [one["against"] is None for one in task["quants"]] == [True, False, False]
        for quant in task["quants"]:
            assert quant.keys() == QUANT and quant["measures"][0]["name"] == task["measure"]
            assert all(one.keys() == MEASURE for one in quant["measures"])
            assert quant["thought"] is None or quant["thought"].keys() == THOUGHT
            if quant["against"]:
                assert quant["against"].keys() == AGAINST and quant["against"]["call"] in decided.CALLS
                for subject in quant["against"]["subjects"]:
                    assert subject.keys() == {"group", "n", "delta", "p", "p_holm"}
    documented = as_json.__doc__ or ""
    assert all(f'"{key}"' in documented for key in TASK | QUANT | MEASURE | THOUGHT | AGAINST)

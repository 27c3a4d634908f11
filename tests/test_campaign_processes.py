"""The fault campaign in short: a few of each fault of processes, on a real sweep; and the judge that they rely on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if os.name != "posix":
    pytest.skip("signals and terminals of POSIX", allow_module_level=True)

import builders
import msgspec
from campaign import judge, processes, rounds, table
from campaign.ground import Broken, Fault, Ground, Missed, Outcome, Unusable
from campaign.judge import Qualities, Recorded, Value
from campaign.table import Row
from hypothesis import given
from hypothesis import strategies as st

from quanttui import events as e

SHORT = [fault for fault in processes.FAULTS if fault.short]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """All of the short form, two faults at a time."""
    ground = Ground(tmp_path_factory.mktemp("campaign"))
    return {row.fault.name: row for row in rounds.rows(ground, [(fault, fault.short) for fault in SHORT], 1, 2)}


@pytest.mark.alone
@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: fault.name.replace(" ", "-"))
def test_nothing_is_lost_and_what_is_missing_is_resumed(fault: Fault, rows: dict[str, Row]) -> None:
    row = rows[fault.name]
    if row.skipped:
        pytest.skip(row.skipped)
    assert [one.said for one in row.outcomes if one.amiss] == []
    assert len(row.outcomes) == fault.short


def test_the_long_form_has_the_faults_that_were_promised() -> None:
    """Killed 200 times at least, 300 faults in all, and no two of one name."""
    assert sum(fault.times for fault in processes.FAULTS if fault.group == "kill -9") >= 200
    assert sum(fault.times for fault in processes.FAULTS) >= 300
    assert len({fault.name for fault in processes.FAULTS}) == len(processes.FAULTS)


# --- the judge ------------------------------------------------------------------------------------------------------

MADE = builders.events(builders.Arm("F16"), builders.Arm("Q4_K_M"))
LOG = b"".join(map(e.encode, MADE))


@given(st.integers(0, len(MADE)))
def test_a_log_that_only_grew_has_lost_nothing(count: int) -> None:
    before = Recorded(b"".join(LOG.splitlines(keepends=True)[:count]))
    assert judge.lost(before, Recorded(LOG)) == 0


@given(st.sampled_from([at for at, event in enumerate(MADE) if isinstance(event, judge.KEPT)]))
def test_a_result_that_is_gone_is_counted(at: int) -> None:
    lines = LOG.splitlines(keepends=True)
    assert judge.lost(Recorded(LOG), Recorded(b"".join(lines[:at] + lines[at + 1 :]))) == 1


def test_an_undisturbed_log_is_regular_and_ran_nothing_again() -> None:
    log = Recorded(LOG)
    assert list(judge.irregular(log)) == [] and judge.run_again(log) == []
    assert log.complete == log.planned == {"F16", "Q4_K_M"} and log.failed == {}


@given(st.sampled_from([event for event in MADE if isinstance(event, (e.UnitDone, e.UnitStarted))]))
def test_a_unit_that_is_run_again_is_named(event: e.UnitDone | e.UnitStarted) -> None:
    again = msgspec.structs.replace(event, n=len(MADE), t=1e9)
    assert judge.run_again(Recorded(LOG + e.encode(again))) == [event.unit.id]


@given(st.integers(1, len(MADE) - 2))
def test_a_line_that_is_torn_or_gone_makes_a_log_irregular(at: int) -> None:
    lines = LOG.splitlines(keepends=True)
    assert list(judge.irregular(Recorded(b"".join(lines[:at] + lines[at + 1 :]))))
    torn = lines[at][: len(lines[at]) // 2] + b"\n"
    assert list(judge.irregular(Recorded(b"".join([*lines[:at], torn, *lines[at:]]))))


WHOLE = Qualities(
    {("F16", "chunk 0"): Value(b"a"), ("Q4_K_M", "chunk 0"): Value(b"b", b"x"), ("Q4_K_M", "chunk 1"): Value(b"c")},
    {"F16.nll": b"1", "Q4_K_M.nll": b"2", "Q4_K_M.kld": b"3"},
)
ARMS = {"F16", "Q4_K_M"}


def test_equal_qualities_do_not_differ() -> None:
    assert judge.differences(WHOLE, WHOLE, ARMS, "F16") == []


@given(st.sampled_from(list(WHOLE.values)), st.sampled_from(["own", "base", "gone"]))
def test_a_changed_or_missing_value_of_an_arm_that_is_done_differs(key: tuple[str, str], how: str) -> None:
    values = dict(WHOLE.values)
    if how == "gone":
        del values[key]
    elif how == "own":
        values[key] = Value(b"?", values[key].base)
    else:
        values[key] = Value(values[key].own, b"?")
    assert judge.differences(Qualities(values, WHOLE.files), WHOLE, ARMS, "F16")


@given(st.sampled_from(list(WHOLE.files)))
def test_a_changed_file_of_an_arm_that_is_done_differs(name: str) -> None:
    assert judge.differences(Qualities(WHOLE.values, {**WHOLE.files, name: b"?"}), WHOLE, ARMS, "F16")


def test_an_arm_that_failed_may_lack_values_and_have_no_others() -> None:
    less = Qualities({("F16", "chunk 0"): Value(b"a")}, {"F16.nll": b"1"})
    assert judge.differences(less, WHOLE, {"F16"}, "F16") == []
    wrong = Qualities({**less.values, ("Q4_K_M", "chunk 0"): Value(b"?")}, less.files)
    assert judge.differences(wrong, WHOLE, {"F16"}, "F16") == ["Q4_K_M chunk 0 differs"]


def test_without_the_base_nothing_is_said_of_what_follows_from_it() -> None:
    without = Qualities(
        {("Q4_K_M", "chunk 0"): Value(b"b"), ("Q4_K_M", "chunk 1"): Value(b"c")}, {"Q4_K_M.nll": b"2"}
    )
    assert judge.differences(without, WHOLE, {"Q4_K_M"}, "F16") == []


# --- rounds and table -----------------------------------------------------------------------------------------------


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    yield Ground(tmp_path)


def fault(run: object, name: str = "made up") -> Fault:
    return Fault(name, "group", 3, 1, run)  # type: ignore[arg-type]


def test_a_fault_that_comes_too_late_is_tried_at_other_moments_and_then_told(ground: Ground) -> None:
    moments: list[float] = []

    def late(_: Ground, chance: object) -> Outcome:
        moments.append(chance.random())  # type: ignore[attr-defined]
        raise Missed

    assert "too late" in rounds.once(ground, fault(late), 1, 0).said
    assert len(set(moments)) == rounds.TRIES


def test_the_same_seed_gives_the_same_moments(ground: Ground) -> None:
    def told(_: Ground, chance: object) -> Outcome:
        return Outcome(said=str(chance.random()))  # type: ignore[attr-defined]

    once = [rounds.once(ground, fault(told), 1, number).said for number in range(4)]
    assert once == [rounds.once(ground, fault(told), 1, number).said for number in range(4)]
    assert len(set(once)) == 4


def test_the_table_counts_every_kind_of_loss_and_is_sound_only_without_any(ground: Ground) -> None:
    fine = Row(fault(None, "fine"), [Outcome(), Outcome()])
    bad = Row(fault(None, "bad"), [Outcome(True, 2, True, True, "all of it"), Outcome(said="a traceback")])
    assert fine.counts == (2, 0, 0, 0, 0, 0) and bad.counts == (2, 1, 2, 1, 1, 1)
    assert table.sound([fine]) and not table.sound([fine, bad]) and not table.sound([])
    assert table.text([fine, bad]).splitlines()[-1].split() == ["all", "4", "1", "2", "1", "1", "1"]


def test_what_the_host_does_not_allow_is_skipped_with_the_reason_and_a_broken_program_is_told(ground: Ground) -> None:
    def unusable(*_: object) -> Outcome:
        raise Unusable("needs root")

    def broken(*_: object) -> Outcome:
        raise Broken("hangs")

    skipped, told = rounds.rows(ground, [(fault(unusable), 2), (fault(broken), 1)], 1, 2)
    assert skipped.skipped == "needs root" and not skipped.outcomes
    assert [one.said for one in told.outcomes] == ["hangs"]
    assert "skipped: needs root" in table.text([skipped, told])

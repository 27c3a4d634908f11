"""The fault lab: its own parts, and a few real faults where the host allows them."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from faults import cgroups, conditions, machine, matrix, records, swapfile, watch
from faults.cgroups import Group, Parent, Unusable
from faults.conditions import CLEAN, EITHER, FAULTY
from faults.machine import Neighbour, Told
from faults.records import NOTHING, Onset, Record, Said
from faults.swapfile import SwapFile
from faults.watch import Facts, Taken
from hypothesis import given
from hypothesis import strategies as st

from quanttui.diagnosis.case import CODES
from quanttui.errors import UserError

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="cgroups and swap files of Linux"),
]

CHECKOUT = Path(__file__).resolve().parents[1]


# --- where groups are made ------------------------------------------------------------------------------------------

V1 = b"""9:name=systemd:/
7:cpuacct,blkio:/jobs/17
5:devices:/
4:memory:/jobs/17
1:cpu:/
0::/
"""
V1_MOUNTS = b"""31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio,cpuacct
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_CONTAINER = b"11:memory:/docker/8a6d\n0::/docker/8a6d\n"
V1_CONTAINER_MOUNTS = b"735 731 0:33 /docker/8a6d /sys/fs/cgroup/memory ro,nosuid shared:9 - cgroup cgroup rw,memory\n"
V2 = b"0::/user.slice/user-1000.slice/session-3.scope\n"
V2_MOUNTS = b"34 24 0:29 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V2_CONTAINER = b"0::/\n"


def test_with_version_1_a_group_is_made_below_our_own() -> None:
    top = Path("/sys/fs/cgroup")
    assert cgroups.candidates(V1, V1_MOUNTS) == [Parent(1, top / "memory/jobs/17", top / "blkio/jobs/17")]


def test_in_a_container_the_hosts_part_of_the_path_is_cut_off() -> None:
    assert cgroups.candidates(V1_CONTAINER, V1_CONTAINER_MOUNTS) == [Parent(1, Path("/sys/fs/cgroup/memory"))]


def test_with_version_2_a_group_is_made_in_ours_or_above_it_nearest_first() -> None:
    top = Path("/sys/fs/cgroup")
    assert cgroups.candidates(V2, V2_MOUNTS) == [
        Parent(2, top / "user.slice/user-1000.slice/session-3.scope"),
        Parent(2, top / "user.slice/user-1000.slice"),
        Parent(2, top / "user.slice"),
        Parent(2, top),
    ]
    assert cgroups.candidates(V2_CONTAINER, V2_MOUNTS) == [Parent(2, top)]


@pytest.mark.parametrize("cgroup", [b"", b"garbage", b"9:cpu:/\n", b"\xff\x00:::"])
def test_without_a_memory_cgroup_the_reason_is_told(cgroup: bytes) -> None:
    with pytest.raises(Unusable, match="no memory cgroup"):
        cgroups.candidates(cgroup, V1_MOUNTS)


def test_a_cgroup_that_hands_no_memory_on_is_refused_by_name(tmp_path: Path) -> None:
    for name, content in (("cgroup", V2_CONTAINER), ("mountinfo", V2_MOUNTS)):
        file = tmp_path / "proc/self" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    top = tmp_path / "sys/fs/cgroup"
    top.mkdir(parents=True)
    (top / "cgroup.subtree_control").write_text("cpu io\n")
    with pytest.raises(Unusable, match=f"{top}: hands no memory on"):
        cgroups.find(tmp_path)
    (top / "cgroup.subtree_control").unlink()
    with pytest.raises(Unusable, match="hands no memory on"):
        cgroups.find(tmp_path)


# --- groups ---------------------------------------------------------------------------------------------------------


class Kernel:
    """A cgroup's folder goes only when nothing runs in it; what is killed is gone."""

    def __init__(self) -> None:
        self.killed: list[int] = []
        self.removed: list[Path] = []

    def kill(self, pid: int, number: int) -> None:
        assert number == signal.SIGKILL
        self.killed.append(pid)

    def rmdir(self, folder: Path) -> None:
        procs = folder / "cgroup.procs"
        running = [pid for pid in procs.read_text().split() if int(pid) not in self.killed] if procs.exists() else []
        if running:
            raise OSError(errno.EBUSY, "busy")
        shutil.rmtree(folder)
        self.removed.append(folder)

    def group(self, folder: Path, version: int = 1) -> Group:
        return Group(Parent(version, folder), "run", self.rmdir, self.kill)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Told])
def test_whatever_happens_within_a_group_it_is_removed_and_what_ran_in_it_killed(
    tmp_path: Path, error: type[BaseException]
) -> None:
    kernel = Kernel()
    with pytest.raises(error), kernel.group(tmp_path) as group:
        (group.folder / "cgroup.procs").write_text("41\n42\n")
        raise error
    assert set(kernel.killed) == {41, 42} and kernel.removed == [group.folder] and not group.folder.exists()


def test_a_group_that_the_kernel_does_not_let_go_is_an_error(tmp_path: Path) -> None:
    def rmdir(folder: Path) -> None:
        raise OSError(errno.EBUSY, "busy")

    with pytest.raises(OSError, match="busy"):
        cgroups.remove(tmp_path, rmdir, lambda pid, number: None, patience=0.05)


def written(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


@pytest.mark.parametrize("swap", [False, True])
def test_version_1_limits_memory_and_swap_together(tmp_path: Path, swap: bool) -> None:
    with Kernel().group(tmp_path) as group:
        group.limit(1 << 20, swap)
        files = written(group.folder)
    assert files["memory.limit_in_bytes"] == str(1 << 20)
    assert files["memory.memsw.limit_in_bytes"] == ("-1" if swap else str(1 << 20))


@pytest.mark.parametrize("swap", [False, True])
def test_version_2_limits_each_by_itself(tmp_path: Path, swap: bool) -> None:
    with Kernel().group(tmp_path, 2) as group:
        group.limit(1 << 20, swap)
        files = written(group.folder)
    assert files == {"memory.max": str(1 << 20), "memory.swap.max": "max" if swap else "0"}


def test_a_program_in_a_group_keeps_its_words_as_they_are(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "import sys; print(sys.argv[1:])", "a b", "$HOME", "'", '"; exit 1']
    with Kernel().group(tmp_path) as group:
        procs = group.folder / "cgroup.procs"
        with subprocess.Popen(group.inside(words), stdout=subprocess.PIPE, text=True) as process:
            out, _ = process.communicate(timeout=60)
        assert procs.read_text() == f"{process.pid}\n"
        procs.write_text("")
    assert out == f"{words[3:]}\n"


def test_only_groups_of_labs_that_are_gone_are_left_over(tmp_path: Path) -> None:
    for name in ("41-run", "42-run", "x-run"):
        (tmp_path / f"{cgroups.PREFIX}{name}").mkdir()
    (tmp_path / "other").mkdir()
    found = cgroups.leftover(Parent(1, tmp_path), lambda pid: pid == 42)
    assert [folder.name for folder in found] == [f"{cgroups.PREFIX}41-run"]


# --- swap -----------------------------------------------------------------------------------------------------------


class Swaps:
    """Stands in for swapon and swapoff; `failing` is raised by the first."""

    def __init__(self, failing: BaseException | None = None) -> None:
        self.on: set[str] = set()
        self.failing = failing

    def switch_on(self, path: str) -> None:
        assert Path(path).stat().st_mode & 0o77 == 0, "everybody could read what is swapped"
        self.on.add(path)
        if self.failing is not None:
            raise self.failing

    def switch_off(self, path: str) -> None:
        self.on.discard(path)

    def file(self, folder: Path) -> SwapFile:
        return SwapFile(folder, 1 << 20, self.switch_on, self.switch_off)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, Told])
def test_whatever_happens_swap_is_switched_off_and_its_file_removed(
    tmp_path: Path, error: type[BaseException]
) -> None:
    swaps = Swaps()
    with pytest.raises(error), swaps.file(tmp_path):
        assert len(swaps.on) == 1
        raise error
    assert not swaps.on and list(tmp_path.iterdir()) == []


def test_told_to_end_while_swap_is_switched_on_none_stays_on(tmp_path: Path) -> None:
    swaps = Swaps(Told())
    with pytest.raises(Told), swaps.file(tmp_path):
        pass
    assert not swaps.on and list(tmp_path.iterdir()) == []


def test_swap_that_may_not_be_switched_on_is_a_reason(tmp_path: Path) -> None:
    swaps = Swaps(PermissionError(errno.EPERM, "Operation not permitted"))
    with pytest.raises(Unusable, match="Operation not permitted"), swaps.file(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@given(st.sampled_from([4096, 16384, 65536]), st.integers(10, 1000))
def test_a_swap_files_header_is_what_the_kernel_reads(page: int, pages: int) -> None:
    """mm/swapfile.c reads version, last page and bad pages; the mark ends the first page, whatever its size."""
    made = swapfile.header(pages * page, page)
    assert len(made) == page and made.endswith(b"SWAPSPACE2")
    assert struct.unpack_from("=3I", made, 1024) == (1, pages - 1, 0)


def test_a_swap_file_has_no_holes(tmp_path: Path) -> None:
    swaps = Swaps()
    with swaps.file(tmp_path) as file:
        assert file.path.stat().st_size == 1 << 20
        assert file.path.stat().st_blocks * 512 >= 1 << 20


def test_swap_is_read_from_the_kernels_list() -> None:
    text = "Filename Type Size Used Priority\n/tmp/a\\040b.swap\tfile\t\t1024\t0\t-2\n/dev/sda2 partition 9 0 -3\n"
    assert swapfile.active(text) == ["/tmp/a\\040b.swap", "/dev/sda2"]
    assert swapfile.active("") == []


# --- the machine ----------------------------------------------------------------------------------------------------


def test_sigterm_unwinds_and_a_second_one_changes_nothing() -> None:
    done = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Told, match="SIGTERM"), machine.ends_in_order():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("it went on")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("closed")
    assert done == ["closed"] and signal.getsignal(signal.SIGTERM) == before


def test_a_neighbour_waits_for_its_go_then_works_and_is_gone_after() -> None:
    with Neighbour("spin") as neighbour:
        idle = neighbour.cpu()
        time.sleep(0.3)
        assert neighbour.cpu() - idle < 0.1
        neighbour.go()
        begun = time.monotonic()
        while neighbour.cpu() - idle < 0.2:
            assert time.monotonic() - begun < 60
            time.sleep(0.02)
        (process,) = [one for one in psutil.Process().children() if "spin" in one.cmdline()]
    assert not process.is_running()


def test_a_neighbour_ends_with_the_one_who_started_it() -> None:
    code = (
        "import sys, time; from faults.machine import Neighbour\n"
        "with Neighbour('spin') as n: n.go(); print(n._process.pid, flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, cwd=CHECKOUT / "tests", stdout=subprocess.PIPE, text=True, env=environment()) as lab:
        assert lab.stdout is not None
        neighbour = psutil.Process(int(lab.stdout.readline()))
        lab.kill()
    _, alive = psutil.wait_procs([neighbour], timeout=30)
    assert not alive or alive[0].status() == psutil.STATUS_ZOMBIE


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


def test_what_is_read_is_resident_and_what_is_dropped_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(3 << 20))
    machine.warm(file)
    assert machine.resident(file) == 1.0
    if _in_memory(tmp_path):
        pytest.skip("a file system in memory drops nothing")
    machine.drop(file)
    assert machine.resident(file) < 0.1
    assert file.stat().st_size == 3 << 20


def _in_memory(folder: Path) -> bool:
    kinds = {Path(part.mountpoint): part.fstype for part in psutil.disk_partitions(all=True)}
    nearest = next(place for place in (folder, *folder.parents) if place in kinds)
    return kinds[nearest] in ("tmpfs", "ramfs", "overlay")


def test_whatever_is_left_is_told(tmp_path: Path) -> None:
    parent = Parent(1, tmp_path / "cgroup")
    parent.folder.mkdir()
    before = machine.left(parent, tmp_path)
    assert machine.left(parent, tmp_path).beyond(before) == []
    (parent.folder / f"{cgroups.PREFIX}1-run").mkdir()
    (tmp_path / "run-1").mkdir()
    with Neighbour("spin"):
        told = machine.left(parent, tmp_path).beyond(before)
    assert [line.partition(":")[0] for line in told] == ["groups", "processes", "files"]
    gone = machine.Left(frozenset({"/swap"}), frozenset(), frozenset(), frozenset())
    assert machine.left(None, tmp_path / "none").beyond(gone)[-1:] == ["swaps: /swap is gone"]


def test_what_a_killed_lab_left_is_taken_away_and_nothing_of_one_that_lives(tmp_path: Path) -> None:
    told: list[str] = []
    swaps, runs = swapfile.PREFIX, machine.RUN
    names = [f"{swaps}41.swap", f"{swaps}42.swap", f"{runs}41-a", f"{runs}42-b", "models"]
    for name in names:
        if name.endswith(".swap"):
            (tmp_path / name).touch()
        else:
            (tmp_path / name / "session").mkdir(parents=True)
    parent = Parent(1, tmp_path / "cgroup")
    for name in ("41-run", "42-run"):
        (parent.folder / f"{cgroups.PREFIX}{name}").mkdir(parents=True)
    machine.recover(parent, tmp_path, told.append, lambda pid: pid == 42)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["cgroup", names[1], names[3], "models"])
    assert [folder.name for folder in parent.folder.iterdir()] == [f"{cgroups.PREFIX}42-run"]
    assert len(told) == 1 and "41-run" in told[0]


# --- the witness ----------------------------------------------------------------------------------------------------

moments = st.lists(st.floats(0, 100), min_size=2, max_size=30, unique=True).map(sorted)


@given(moments, st.floats(0.1, 50), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_growth_over_a_span_is_the_difference_and_adds_up(
    at: list[float], rate: float, first: float, second: float, third: float
) -> None:
    taken = [Taken(moment, {"x": rate * moment}) for moment in at]
    begin, middle, end = sorted(at[0] + (at[-1] - at[0]) * share for share in (first, second, third))
    whole = watch.grown(taken, "x", [(begin, end)])
    parts = watch.grown(taken, "x", [(begin, middle), (middle, end)])
    assert whole == pytest.approx(rate * (end - begin), abs=1e-6) and parts == pytest.approx(whole, abs=1e-6)


def test_what_the_readings_do_not_reach_over_is_not_told() -> None:
    taken = [Taken(1.0, {"x": 5.0}), Taken(2.0, {"x": 7.0})]
    assert watch.grown(taken, "x", [(1.0, 2.0)]) == 2.0
    assert watch.grown(taken, "x", [(0.9, 2.0)]) is None and watch.grown(taken, "x", [(1.0, 2.1)]) is None
    assert watch.grown(taken, "y", [(1.0, 2.0)]) is None and watch.grown([], "x", [(1.0, 2.0)]) is None


def test_facts_are_per_token_and_per_second() -> None:
    """Two repetitions, two seconds, 10 tokens of 100 bytes; half of each byte was fetched again; others had 2.9 - 1.9 -
    0.5 cores."""
    growing = {"file": 250.0, "swap.in": 25.0, "busy": 2.9, "ours": 1.9, "hogs": 0.5, "steal": 0.0}
    taken = [
        Taken(t, {name: rate * t for name, rate in growing.items()} | {"swap.used": 100 - t}) for t in range(0, 9)
    ]
    found = watch.facts(taken, [(1.0, 2.0), (4.0, 5.0)], 10, 100.0)
    assert found.file == pytest.approx(0.5) and found.peak == pytest.approx(0.5)
    assert found.swapped == pytest.approx(0.05) and found.anonymous is None
    assert found.others == pytest.approx(0.5) and found.hogs == pytest.approx(0.5) and found.steal == 0.0
    assert found.swap_used == 95 and found.seconds == 2.0


def test_without_anything_timed_there_are_no_facts() -> None:
    assert watch.facts([Taken(0.0, {"file": 1.0})], [], 0, 100.0) == Facts(0, 0)


# --- the table of conditions ----------------------------------------------------------------------------------------

TABLE = conditions.table(2)


def facts(**given: float) -> Facts:
    return Facts(3.0, 10, **given)


def test_every_condition_has_a_right_answer_of_the_vocabulary_whatever_the_kernel_counted() -> None:
    for condition in TABLE.values():
        for share in (None, 0.0, 0.001, 0.002, 0.005, 0.01, 1.0):
            right = condition.right(Facts(3.0, 10, file=share))
            known = set(CODES) | {"memory-bus-contention", "compute-bound"}
            assert right and right <= known, condition.name


@given(st.floats(0, 2), st.floats(1, 20))
def test_near_the_fit_the_kernels_count_decides_and_close_to_a_line_both_sides_are_right(
    share: float, burst: float
) -> None:
    found = facts(file=share, peak=share * burst)
    right = conditions.page_in(found)
    assert right
    assert (right == {"page-in-thrash"}) == (share >= conditions.CONTAMINATED * conditions.NEAR)
    assert ("page-in-thrash" in right) == (share * burst >= conditions.CONTAMINATED / conditions.NEAR)
    assert ("bandwidth-wall" in right) == (share < conditions.EDGE * conditions.NEAR)
    kind = conditions.kind(TABLE["fit"], found)
    assert kind == (FAULTY if share >= 0.01 else CLEAN if share * burst < 0.002 else EITHER)
    assert conditions.kind(TABLE["wall"], found) == CLEAN


def test_a_clean_run_on_a_busy_machine_counts_for_nothing() -> None:
    for condition in TABLE.values():
        if condition.kind == CLEAN:
            busy = condition.came(facts(others=0.5, swapped=1.0, swap_used=1e9))
            assert busy == "others used 0.50 cores", condition.name
            assert condition.came(facts(others=0.05, swapped=1.0, swap_used=1e9)) == "", condition.name


@pytest.mark.parametrize(
    ("name", "absent", "there"),
    [
        ("page-in-75", facts(file=0.0), facts(file=0.5)),
        ("swap-60", facts(swapped=0.0), facts(swapped=0.5)),
        ("spin", facts(hogs=0.1), facts(hogs=1.0)),
        ("bus", facts(hogs=0.1), facts(hogs=0.99)),
        ("bus", facts(hogs=0.99, of_clean=0.9), facts(hogs=0.99, of_clean=0.7)),
        ("swap-neighbour", facts(swapped=0.0), facts(swapped=0.02)),
        ("swap-idle", facts(swap_used=0.0), facts(swap_used=2e8)),
    ],
)
def test_a_fault_that_was_not_there_counts_for_nothing(name: str, absent: Facts, there: Facts) -> None:
    assert TABLE[name].came(absent) != "" and TABLE[name].came(there) == ""


def test_a_model_is_for_machines_whose_cache_holds_it_or_holds_little_of_it() -> None:
    mib = 1 << 20
    cases = [("wall", 300, 32, True), ("wall", 300, 100, False), ("spin", 300, 100, True), ("spin", 300, 400, False)]
    cases += [("cache", 8, 32, True), ("cache", 8, 4, False), ("cache", 8, 0, False), ("wall", 300, 0, True)]
    for name, active, cache, fit in cases:
        assert (conditions.unfit(TABLE[name], active * mib, cache * mib) == "") == fit, (name, active, cache)


# --- records --------------------------------------------------------------------------------------------------------


def record(said: str = "bandwidth-wall", kind: str = CLEAN, right: str = "bandwidth-wall", **given: object) -> Record:
    verdicts = (Said(said, "decode"),) if said != NOTHING else ()
    known = {"condition": "wall", "kind": kind, "right": (right,), "said": said, "verdicts": verdicts}
    return Record(**{**known, **given})  # type: ignore[arg-type]


texts = st.text(max_size=20)
somethings = st.builds(
    Record,
    condition=texts,
    kind=st.sampled_from([CLEAN, FAULTY, EITHER]),
    right=st.tuples(texts),
    said=texts,
    void=texts,
    verdicts=st.tuples(st.builds(Said, code=texts, phase=texts, kind=texts)),
    facts=st.none() | st.builds(Facts, st.floats(0, 9), st.integers(0, 99), file=st.none() | st.floats(0, 2)),
    onset=st.none() | st.builds(Onset, flagged=st.none() | st.floats(0, 99), first=st.none() | st.floats(0, 9)),
    mbu=st.none() | st.floats(0, 2),
)


@given(st.lists(somethings, max_size=4))
def test_runs_in_a_file_come_back_as_they_were(found: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runs.jsonl"
        file.touch()
        for one in found:
            records.append(file, one)
        assert list(records.read(file)) == found


@pytest.mark.parametrize("line", ["{", "[]", '{"condition": 1}', "\x00"])
def test_a_line_that_is_no_run_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "runs.jsonl"
    records.append(file, record())
    with open(file, "a") as out:
        out.write(line + "\n")
    with pytest.raises(UserError, match="line 2 is no run"):
        list(records.read(file))


def verdict(code: str, phase: str = "decode", **more: object) -> dict[str, object]:
    return {"code": code, "phase": phase, "evidence": {"tok/s": 1.0, "code": code}, **more}


def test_what_accuses_is_said_before_what_explains_and_other_phases_say_nothing_of_the_decode() -> None:
    arm = {
        "outcome": "ok",
        "verdicts": [verdict("page-in-thrash", "perplexity"), verdict("edge-of-memory"), verdict("swap-contaminated")],
    }
    said, all_, evidence = records.of_arm(arm)
    assert said == "swap-contaminated" and evidence["code"] == said and len(all_) == 3


def test_a_reports_own_word_for_a_verdict_goes_before_the_labs() -> None:
    found = [verdict("page-in-thrash", kind="caution"), verdict("new", kind="contaminated")]
    assert records.of_arm({"outcome": "ok", "verdicts": found})[0] == "new"


def test_an_arm_without_a_verdict_is_called_by_that_or_by_how_it_ended() -> None:
    assert records.of_arm({"outcome": "ok", "verdicts": []})[0] == NOTHING
    assert records.of_arm({"outcome": "crashed", "verdicts": []})[0] == "crashed"


# --- the matrix -----------------------------------------------------------------------------------------------------


def verdicts(found: list[Record]) -> list[str]:
    return [figure.verdict for figure in matrix.figures(found)]


def good() -> list[Record]:
    """Runs that reach every figure, and no run more."""
    arms = [
        record(condition="wall-arms", session=session, mbu=mbu)
        for session, mbu in (("a", 0.80), ("b", 0.87))
        for _ in range(5)
    ]
    clean = [record() for _ in range(10)]
    faulty = [record("page-in-thrash", FAULTY, "page-in-thrash", condition="page-in-60") for _ in range(20)]
    onsets = [
        record("page-in-thrash", FAULTY, "page-in-thrash", condition="onset-token", onset=Onset(2.0, token=4.0)),
        record("page-in-thrash", FAULTY, "page-in-thrash", condition="onset-page-in", onset=Onset(2.9, token=1.0)),
    ]
    return [*arms, *clean, *faulty, *onsets]


def test_all_figures_are_reached_by_runs_that_reach_them() -> None:
    assert verdicts(good()) == [matrix.REACHED] * 5 and matrix.reached(matrix.figures(good()))


WRONG: dict[str, tuple[int, Callable[[], list[Record]]]] = {
    "three of 43 wrong": (0, lambda: [record("unexplained") for _ in range(3)]),
    "a faulty one called bandwidth": (1, lambda: [record("bandwidth-wall", FAULTY, "cpu-contention")]),
    "a faulty one called nothing": (1, lambda: [record(NOTHING, FAULTY, "cpu-contention")]),
    "a clean one accused": (2, lambda: [record("cpu-contention")]),
    "a clean one accused beside": (
        2,
        lambda: [record(verdicts=(Said("bandwidth-wall", "decode"), Said("throttled", "decode", "contaminated")))],
    ),
    "onsets seen late": (3, lambda: [record(onset=Onset(9.0)) for _ in range(3)]),
    "onsets never seen": (3, lambda: [record(onset=Onset(None)) for _ in range(3)]),
    "onsets inside a token seen late": (3, lambda: [record(onset=Onset(3.5, token=5.0)) for _ in range(2)]),
    "sessions apart": (4, lambda: [record(condition="wall-arms", session="c", mbu=0.95) for _ in range(5)]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_misses_its_figure(name: str) -> None:
    place, more = WRONG[name]
    found = verdicts([*good(), *more()])
    assert found[place] == matrix.MISSED and not matrix.reached(matrix.figures([*good(), *more()]))


@pytest.mark.parametrize("name", WRONG)
def test_what_counts_for_nothing_misses_nothing(name: str) -> None:
    _, more = WRONG[name]
    void = [msgspec.structs.replace(one, void="the machine was busy") for one in more()]
    assert verdicts([*good(), *void]) == [matrix.REACHED] * 5
    assert "the machine was busy" in matrix.text([*good(), *void])


def test_too_few_runs_reach_nothing_and_miss_nothing() -> None:
    assert set(verdicts([])) == {matrix.OPEN}
    assert set(verdicts([record()])) == {matrix.OPEN}


@given(st.lists(st.sampled_from(sorted(TABLE)), max_size=60), st.data())
def test_every_run_that_counts_is_in_one_cell(names: list[str], data: st.DataObject) -> None:
    """The counts of the matrix add up to the runs, and the marked ones to those that are wrong."""
    found = []
    for name in names:
        (right, *_) = sorted(TABLE[name].right(facts()))
        said = data.draw(st.sampled_from([right, "bandwidth-wall", "unexplained", NOTHING]))
        found.append(record(said, TABLE[name].kind, right, condition=name))
    if not found:
        return
    table = matrix.text(found).split("\n\n")[0].splitlines()[3:]
    assert len(table) == len(set(names))
    cells = [cell for line in table for cell in line.split()[2:-1] if cell.strip(f"{matrix.MARK}.").isdigit()]
    assert sum(int(cell.rstrip(matrix.MARK)) for cell in cells) == len(found)
    wrong = sum(int(cell.rstrip(matrix.MARK)) for cell in cells if cell.endswith(matrix.MARK))
    assert wrong == sum(not one.correct for one in found)
    assert math.isclose(sum(int(line.split()[-1].split("/")[0]) for line in table), len(found) - wrong)


# --- the command line -----------------------------------------------------------------------------------------------


def lab(*words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.faults", *words]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, errors="replace", timeout=timeout)


def test_the_help_names_every_condition() -> None:
    done = lab("--help")
    assert done.returncode == 0 and all(name in done.stdout for name in (*TABLE, "onset-token"))


def test_the_matrix_of_a_file_is_printed_without_measuring(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    for one in good():
        records.append(file, one)
    done = lab("--from", str(file))
    assert done.returncode == 0 and done.stdout == matrix.text(good()) + "\n"
    records.append(file, record(NOTHING, FAULTY, "cpu-contention"))
    assert lab("--from", str(file)).returncode == 1


@pytest.mark.parametrize("words", [["--from", "/does/not/exist"], ["no-such-condition"]])
def test_what_cannot_be_done_is_one_clear_line(words: list[str], tmp_path: Path) -> None:
    done = lab(*words, "--work", str(tmp_path))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("faults: ") and done.stderr.count("\n") == 1 and words[-1] in done.stderr


# --- real faults ----------------------------------------------------------------------------------------------------

REAL = ("cold", "cache", "page-in-60", "oom", "spin")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, list[Record]], str]]:
    """A run of each of some conditions on this machine, and what the lab told meanwhile. What is written is removed."""
    work = tmp_path_factory.mktemp("faults")
    out = work / "runs.jsonl"
    out.touch()
    done = lab(*REAL, "--out", str(out), "--work", str(work / "lab"), "--patience", "10", "--again", "1", timeout=600)
    found: dict[str, list[Record]] = {}
    for one in records.read(out):
        found.setdefault(one.condition, []).append(one)
    assert done.returncode in (0, 1), done.stderr
    yield found, done.stderr
    shutil.rmtree(work / "lab", ignore_errors=True)


@pytest.mark.parametrize("name", REAL)
def test_a_real_fault_is_called_what_it_is(name: str, measured: tuple[dict[str, list[Record]], str]) -> None:
    found, told = measured
    if name not in found:
        (why,) = [line for line in told.splitlines() if f"{name}: skipped: " in line]
        pytest.skip(why.partition("skipped: ")[2])
    one = found[name][-1]
    if one.void:
        pytest.skip(f"it counts for nothing: {one.void}")
    assert one.correct, json.dumps([one.said, one.verdicts, one.evidence, one.error], default=str)


def test_after_real_faults_the_machine_is_as_it_was(measured: tuple[dict[str, list[Record]], str]) -> None:
    assert "the machine is left as it was found" in measured[1]

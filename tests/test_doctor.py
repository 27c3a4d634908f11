"""The doctor: every check of it can fail, the observer's figures are those of its runs, and what is kept is found."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quanttui import cli, config, session
from quanttui import events as e
from quanttui import state as known
from quanttui.doctor import arithmetic, host, observer, pocket, reference, runs, selfcheck
from quanttui.doctor.check import Check, near
from quanttui.doctor.observer import CONDITIONS, Round
from quanttui.doctor.pocket import Figures, Measured
from quanttui.errors import UserError
from quanttui.measure import divergence, perplexity
from quanttui.models import pocket as model
from quanttui.stats.sequential import mean_sequence

pytestmark = pytest.mark.alone

BUILD = builders.build(system_info="CPU : AVX2 = 1")
FIGURES = Figures(
    llama_cpp=BUILD.llama_cpp,
    llama_cpp_python=BUILD.llama_cpp_python,
    system_info=BUILD.system_info,
    chunks=72,
    perplexity={"F16": 3.31664054, "Q4_K_M": 3.31928775},
)
posix = pytest.mark.skipif(os.name != "posix", reason="scripts and terminals of POSIX")


def bad(checks: Iterator[Check]) -> list[str]:
    return [one.what for one in checks if not one.ok]


# --- arithmetic -----------------------------------------------------------------------------------------------------


def test_all_is_well_with_the_checks_that_need_no_engine() -> None:
    done = list(arithmetic.checks())
    assert len(done) > 12 and bad(iter(done)) == []
    assert all(one.line.isascii() and one.line.isprintable() for one in done)


def test_a_codec_that_loses_a_field_or_takes_a_torn_line_is_found() -> None:
    def forgetful(line: bytes) -> e.Event | e.Unknown:
        event = e.decode(line)
        return msgspec.structs.replace(event, boottime=None) if isinstance(event, e.Beat) else event

    def greedy(line: bytes) -> e.Event | e.Unknown:
        return e.decode(line) if line.endswith(b"\n") else e.Unknown()

    assert bad(arithmetic.codec(decode=forgetful)) == ["codec: event types that come back"]
    assert bad(arithmetic.codec(decode=greedy)) == ["codec: torn lines that are refused"]


def test_an_example_has_something_in_every_field_and_nothing_twice() -> None:
    made = arithmetic.example(e.SessionOpened)
    assert isinstance(made, e.SessionOpened) and made.observer is not None and made.host.gpus
    told = msgspec.structs.astuple(made.observer)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize("lost", [e.UnitDisturbed, e.Perplexity, e.ArmDone])
def test_a_fold_that_overlooks_an_event_is_found(lost: type[e.Event]) -> None:
    assert bad(arithmetic.fold(lambda events: known.fold(one for one in events if not isinstance(one, lost))))


def test_a_scorer_that_is_a_little_off_is_found() -> None:
    def off(name: str, share: float) -> Callable[..., Any]:
        def diverge(*arguments: Any) -> Any:
            rows = divergence.diverge(*arguments)
            return dataclasses.replace(rows, **{name: getattr(rows, name) * share})

        return diverge

    assert bad(arithmetic.scorer(nll=lambda *given: perplexity.nll(*given) * 1.00001)) == ["scorer: sum of nll"]
    assert bad(arithmetic.scorer(diverge=off("kld", 1.0001))) == ["scorer: sum of KL divergence"]
    assert bad(arithmetic.scorer(diverge=off("p_diff", 1.0001))) == ["scorer: sum of squared changes of p"]
    assert bad(arithmetic.scorer(diverge=off("same_top", 0))) == ["scorer: tokens with the same favourite"]


def test_a_base_file_that_gives_other_rows_is_found() -> None:
    class Other:
        def __init__(self, path: Path) -> None:
            self._file = divergence.BaseFile.open(path)

        def codes(self, chunk: int) -> Any:
            return self._file.codes(1 - chunk)

        def close(self) -> None:
            self._file.close()

    assert bad(arithmetic.base_file(Other)) == ["base file: chunks that come back"]  # type: ignore[arg-type]


def test_a_confidence_sequence_of_another_level_is_found() -> None:
    wide = arithmetic.sequence(lambda values, **given: mean_sequence(values, alpha=0.049, **given))
    assert bad(wide) == ["confidence sequence: radius"]


def test_a_figure_that_is_no_number_is_never_near() -> None:
    assert not near("x", 1.0, float("nan"), 0.1).ok and not near("x", float("nan"), 1.0, 0.1).ok


# --- the pocket model -----------------------------------------------------------------------------------------------


def measured(quant: str = "Q4_K_M", **changes: Any) -> Measured:
    made = Measured(
        quant=quant, file=f"/quants/{quant}.gguf", chunks=72, ppl=FIGURES.perplexity[quant],
        kld=0.0012344, same_top=0.98765, prompt=5000.0, decode=800.0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_four_decimals_count_under_the_build_that_recorded_them() -> None:
    assert pocket.compare(measured(), FIGURES, BUILD).ok
    assert pocket.compare(measured(ppl=3.31926), FIGURES, BUILD).ok
    assert not pocket.compare(measured(ppl=3.3194), FIGURES, BUILD).ok


@pytest.mark.parametrize("field", ["llama_cpp", "llama_cpp_python", "system_info"])
def test_the_tolerance_counts_under_any_other(field: str) -> None:
    other = msgspec.structs.replace(BUILD, **{field: "another"})
    value = FIGURES.perplexity["Q4_K_M"]
    assert pocket.compare(measured(ppl=value * (1 + 0.9 * pocket.TOLERANCE)), FIGURES, other).ok
    assert not pocket.compare(measured(ppl=value * (1 + 1.1 * pocket.TOLERANCE)), FIGURES, other).ok
    assert not pocket.compare(measured(ppl=float("nan")), FIGURES, other).ok


def test_the_shipped_figures_are_of_all_quants_and_the_whole_text() -> None:
    shipped = pocket.figures()
    assert tuple(shipped.perplexity) == pocket.QUANTS and shipped.chunks >= 64
    assert shipped.perplexity["F16"] == pytest.approx(json.loads(model.RECORD.read_text())["held_out_perplexity"], 1e-3)


def test_figures_that_cannot_be_read_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "figures.json").write_text("{")
    for name in ("figures.json", "none.json"):
        with pytest.raises(UserError, match="reinstall quanttui"):
            pocket.figures(tmp_path / name)


def test_the_real_engine_gives_the_recorded_figures_and_a_divergence(tmp_path: Path) -> None:
    from quanttui.sweep import launch

    build = launch.build()
    base, quant = pocket.measure(tmp_path, build, ("F16", "Q4_K_M"), True)
    assert pocket.compare(base, pocket.figures(), build).ok and pocket.compare(quant, pocket.figures(), build).ok
    assert base.chunks == quant.chunks == pocket.figures().chunks
    assert base.kld is None and base.prompt > 0 and base.decode > 0
    assert quant.kld is not None and 0 < quant.kld < 0.1
    assert quant.same_top is not None and 0.9 < quant.same_top < 1


# --- the reference tools --------------------------------------------------------------------------------------------


TOOLS = reference.Tools(Path("/tools/llama-perplexity"), Path("/tools/llama-bench"))


def tool(**printed: Any) -> reference.Run:
    """A stand-in for both tools that prints what the real ones do, with these figures."""
    figures = {"ppl": 3.3193, "kld": 0.001234, "top": 98.765, "prompt": 5100.0, "decode": 790.0} | printed

    def call(command: list[str]) -> tuple[int, str]:
        if "bench" in command[0]:
            rows = [
                {"n_prompt": 512, "n_gen": 0, "avg_ts": figures["prompt"]},
                {"n_prompt": 0, "n_gen": 128, "avg_ts": figures["decode"]},
            ]
            rows = [row for row in rows if row["avg_ts"] is not None]
            return 0, "a line on stderr [x]\n[\n" + json.dumps(rows)[1:] + "\n"
        if "--kl-divergence" in command:
            return 0, (
                f"Mean PPL(Q)                   :   3.319288 \u00b1   0.038549\n"
                f"Mean    KLD: {figures['kld']:10.6f} \u00b1   0.000012\nMaximum KLD:   0.112233\n"
                f"RMS \u0394p    :  1.234 \u00b1 0.012 %\nSame top p: {figures['top']:6.3f} \u00b1 0.081 %\n"
            )
        return 0, f"[72]3.3193,\nFinal estimate: PPL = {figures['ppl']:.4f} +/- 0.03855\n"

    return call


def against(one: Measured, call: reference.Run, tmp_path: Path = Path("/nowhere")) -> list[Check]:
    settings = e.Settings(threads=2, text="text.txt")
    return [
        *reference.perplexity(TOOLS, one, settings, tmp_path, False, call),
        *reference.bench(TOOLS, one, settings, False, call),
    ]


def test_figures_that_agree_are_well() -> None:
    done = against(measured(), tool())
    assert [one.ok for one in done] == [True] * 5
    assert "ratio 0.980, for information" in done[3].line


@pytest.mark.parametrize(
    ("printed", "what"),
    [
        ({"ppl": 3.3194}, "perplexity"),
        ({"kld": 0.001236}, "mean KL divergence"),
        ({"top": 98.764}, "same top token"),
        ({"prompt": None}, "prompt 512"),
        ({"decode": None}, "decode 128"),
    ],
)
def test_a_reference_that_prints_another_figure_is_bad(printed: dict[str, float | None], what: str) -> None:
    assert [one.what.partition(": ")[2] for one in against(measured(), tool(**printed)) if not one.ok] == [what]


def test_speeds_far_apart_are_pointed_at_and_no_more() -> None:
    done = against(measured(), tool(decode=39.0))
    assert all(one.ok for one in done)
    assert [one.how.endswith("is the machine busy?") for one in done[3:]] == [False, True]


def test_what_was_not_measured_here_is_bad() -> None:
    assert len(bad(iter(against(measured(kld=None, same_top=None), tool())))) == 2


def test_the_base_keeps_its_logits_and_is_not_held_against_itself(tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def call(command: list[str]) -> tuple[int, str]:
        commands.append(command)
        return tool(ppl=3.3166)(command)

    (done,) = reference.perplexity(TOOLS, measured("F16"), e.Settings(), tmp_path, False, call)
    assert done.ok
    assert commands[0][-2:] == ["--kl-divergence-base", str(tmp_path / "reference.logits")]


@pytest.mark.parametrize("silent", [0, 4, 5])
def test_a_tool_that_loses_its_last_lines_is_asked_again_up_to_five_times(silent: int, tmp_path: Path) -> None:
    asked = []

    def call(command: list[str]) -> tuple[int, str]:
        asked.append(command)
        return (0, "[72]3.3166,\n") if len(asked) <= silent else tool(ppl=3.3166)(command)

    (done,) = reference.perplexity(TOOLS, measured("F16"), e.Settings(), tmp_path, False, call)
    assert (done.ok, len(asked)) == (silent < 5, min(5, silent + 1))
    assert done.ok or "no figure after 5 runs: exit code 0" in done.expected


def test_a_folder_without_the_tools_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--self-check", "--against", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "holds no llama-perplexity" in said and len(said.splitlines()) == 1


# --- the command ----------------------------------------------------------------------------------------------------


def canned(folder: Path, build: e.Build, quants: Sequence[str], wide: bool) -> Iterator[Measured]:
    return (measured(quant) for quant in quants)


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    """Recorded by this machine's own build."""
    from quanttui.sweep import launch

    build = launch.build()
    mine = msgspec.structs.replace(
        FIGURES,
        llama_cpp=build.llama_cpp,
        llama_cpp_python=build.llama_cpp_python,
        system_info=build.system_info,
    )
    path = tmp_path / "figures.json"
    path.write_bytes(msgspec.json.encode(mine))
    return path


def test_a_corrupted_figure_is_bad_and_ends_with_1(figures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selfcheck.run(None, False, ("F16", "Q4_K_M"), figures, canned) == 0
    assert "all ok" in capsys.readouterr().out
    figures.write_text(figures.read_text().replace("3.31928775", "3.31938775"))
    assert selfcheck.run(None, False, ("F16", "Q4_K_M"), figures, canned) == 1
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("BAD"))
    assert "perplexity Q4_K_M" in line and "expected 3.3194  found 3.3193" in line and "1 BAD" in said


def test_as_json_it_is_one_document(figures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert selfcheck.run(None, True, ("F16",), figures, canned) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] and {"what", "ok", "expected", "found", "how"} == set(told["checks"][0])


@posix
def test_a_tool_on_the_disk_that_prints_another_number_is_bad(
    tmp_path: Path, figures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = '{"n_prompt": 512, "n_gen": 0, "avg_ts": 5000}, {"n_prompt": 0, "n_gen": 128, "avg_ts": 800}'
    for name, said in (
        ("llama-perplexity", "Final estimate: PPL = 3.3167 +/- 0.1"),
        ("llama-bench", f"[\n{rows}]"),
    ):
        (tmp_path / name).write_text(f"#!{sys.executable}\nprint({said!r})\n")
        (tmp_path / name).chmod(0o755)
    assert selfcheck.run(str(tmp_path), False, ("F16",), figures, canned) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BAD")]
    assert len(wrong) == 1 and "llama-perplexity F16: perplexity" in wrong[0] and "expected 3.3167" in wrong[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--against", "x"], "--against: belongs to --self-check"),
        (["--pairs", "3"], "--pairs: belongs to --observer"),
        (["--observer", "--pairs", "0"], "must be a whole number from 1"),
        (["--observer", "--pairs", "many"], "must be a whole number from 1"),
        (["--self-check", "--observer"], "one after the other"),
        (["--observer", "/no/such.gguf"], "no such file"),
        (["--selfcheck"], "did you mean --self-check?"),
    ],
)
def test_flags_that_make_no_sense_are_one_clear_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", *words]) == 2
    told = capsys.readouterr().err
    assert said in told and len(told.splitlines()) == 1


def test_plain_doctor_tells_of_every_probe_and_of_the_observer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUANTTUI_CACHE_DIR", str(tmp_path))
    assert cli.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["observer"] is None and told["build"]["llama_cpp"]
    found = msgspec.convert(told, host.Told)
    text = "\n".join(host.lines(found))
    for one in (*found.found, *found.lost):
        assert one.probe in text
    assert all(lost.why in text for lost in found.lost)
    assert f"with {found.threads} threads was not measured: quanttui doctor --observer" in text
    assert text.isascii()
    assert found.build is not None
    observer.store(tmp_path, found.build, found.threads, OBSERVED, ROUNDS)
    assert cli.main(["doctor"]) == 0
    assert "the live screen costs 0.6 % of decode tok/s" in capsys.readouterr().out


def test_a_host_whose_llama_cpp_cannot_be_loaded_is_told_of() -> None:
    terminal = host.terminal({"TERM": "xterm", "SSH_CONNECTION": "x"})
    told = host.Told(
        host=builders.host(), build=None, error="llama-cpp-python: cannot be loaded", found=(), lost=(), threads=2,
        observer=None, terminal=terminal,
    )  # fmt: skip
    assert "cannot be loaded" in "\n".join(host.lines(told)) and terminal.ssh


# --- the observer ---------------------------------------------------------------------------------------------------


OBSERVED = e.Observer(live=0.0061, headless=-0.001, pairs=3, model="ghost-Q8_0.gguf", wall=1.7e9)
ROUNDS = (Round(unwatched=100.0, headless=100.1, live=99.4),)


def test_every_condition_comes_first_as_often_as_the_others() -> None:
    orders = [observer.order(number) for number in range(9)]
    assert all(sorted(one) == sorted(CONDITIONS) for one in orders)
    for place in range(3):
        assert [sum(one[place] == name for one in orders) for name in CONDITIONS] == [3, 3, 3]


def test_the_figures_are_medians_of_pairwise_ratios_not_of_rates() -> None:
    """The machine grows slower from round to round, watching costs 1, 2, 6 %: the median of the losses is 2 %."""
    rates: dict[str, Iterator[float]] = {
        "unwatched": iter([50.0, 100.0, 50.0, 25.0]),  # the first is the trial
        "headless": iter([100.0, 50.5, 24.0]),
        "live": iter([99.0, 49.0, 23.5]),
    }
    asked: list[tuple[str, int]] = []

    def run(condition: str) -> observer.Rate:
        def rate(tokens: int) -> float:
            asked.append((condition, tokens))
            return next(rates[condition])

        return rate

    lines: list[str] = []
    rounds = observer.measure({name: run(name) for name in CONDITIONS}, 3, lines.append)
    assert asked[0] == ("unwatched", observer.TRIAL)
    assert [name for name, _ in asked[1:]] == [*observer.order(0), *observer.order(1), *observer.order(2)]
    assert {tokens for _, tokens in asked[1:]} == {75}
    found = observer.summed(rounds, "m.gguf", 5.0)
    assert found.live == pytest.approx(0.02) and found.headless == pytest.approx(0.0) and found.pairs == 3
    assert observer.spread(rounds, "live") == pytest.approx((0.015, 0.04))
    assert len(lines) == 4 and "live 99.00 (-1.0 %)" in lines[1] and "headless 50.50 (+1.0 %)" in lines[2]


@given(st.lists(st.tuples(*[st.floats(1, 1e4)] * 3), min_size=1, max_size=20))
def test_the_quartiles_hold_the_median(rates: list[tuple[float, float, float]]) -> None:
    rounds = [Round(unwatched=a, headless=b, live=c) for a, b, c in rates]
    found = observer.summed(rounds, "", 0.0)
    low, high = observer.spread(rounds, "live")
    assert low - 1e-9 <= found.live <= high + 1e-9


@pytest.mark.parametrize(("rate", "tokens"), [(0.1, observer.LEAST), (1e9, observer.MOST), (40.0, 60)])
def test_a_repetition_lasts_about_as_long_on_any_machine(rate: float, tokens: int) -> None:
    asked: list[int] = []

    def run(count: int) -> float:
        asked.append(count)
        return rate

    observer.measure(dict.fromkeys(CONDITIONS, run), 1, lambda _: None)
    assert asked[1:] == [tokens] * 3


def test_what_is_kept_is_found_for_the_same_host_build_and_threads_only(tmp_path: Path) -> None:
    observer.store(tmp_path, BUILD, 2, OBSERVED, ROUNDS, host="here")
    assert observer.load(tmp_path, BUILD, 2, host="here") == OBSERVED
    assert observer.load(tmp_path, BUILD, 4, host="here") is None
    assert observer.load(tmp_path, BUILD, 2, host="there") is None
    assert observer.load(tmp_path / "other", BUILD, 2, host="here") is None
    for change in ({"llama_cpp": "b7000"}, {"llama_cpp_python": "0.4"}, {"system_info": "x"}, {"gpu_offload": True}):
        assert observer.load(tmp_path, msgspec.structs.replace(BUILD, **change), 2, host="here") is None


def test_a_later_result_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    observer.store(tmp_path, BUILD, 2, OBSERVED, ROUNDS)
    later = msgspec.structs.replace(OBSERVED, live=0.5)
    observer.store(tmp_path, BUILD, 2, later, ROUNDS)
    assert observer.load(tmp_path, BUILD, 2) == later and len(list((tmp_path / "observer").iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"{", b'{"host": "x"}', b"\xff"])
def test_a_torn_result_is_none(tmp_path: Path, content: bytes) -> None:
    observer.store(tmp_path, BUILD, 2, OBSERVED, ROUNDS).write_bytes(content)
    assert observer.load(tmp_path, BUILD, 2) is None


def test_a_sweep_asks_for_what_was_measured(tmp_path: Path) -> None:
    observer.store(tmp_path, BUILD, 2, OBSERVED, ROUNDS)
    args = cli.parse(["run", "x.gguf", "--headless"])
    request = cli.request(args, config.Config(cache_dir=str(tmp_path)))
    assert request.observer(BUILD, 2) == OBSERVED and request.observer(BUILD, 1) is None


@posix
@pytest.mark.parametrize("condition", CONDITIONS)
def test_each_run_comes_to_a_rate(tmp_path: Path, condition: str) -> None:
    """Real processes, the live one on a terminal: with the pocket model, so that it takes seconds."""
    assert runs.all_of(model.MODEL, 1, tmp_path)[condition](8) > 0


@posix
def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    for condition in CONDITIONS:
        with pytest.raises(UserError, match=r"broken\.gguf|run (with|without)"):
            runs.all_of(broken, 1, tmp_path)[condition](8)


@posix
def test_a_recorded_session_carries_what_was_measured(tmp_path: Path) -> None:
    from quanttui.sweep import launch

    observer.store(tmp_path, launch.build(), 1, OBSERVED, ROUNDS)
    words = ["--tasks", "speed", "-p", "0", "-n", "4", "-r", "1", "-t", "1", "--anchor", "0", "--headless"]
    command = [sys.executable, "-m", "quanttui", "run", str(model.MODEL), *words, "--session", str(tmp_path / "s")]
    environment = {**os.environ, "QUANTTUI_CACHE_DIR": str(tmp_path)}
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert session.load(tmp_path / "s").observer == OBSERVED


def test_the_default_model_is_about_300_mb_of_q8_0() -> None:
    assert 250e6 < runs.GHOST.parameters * 8.5 / 8 < 320e6


def test_targets_of_the_fixed_logits_are_tokens() -> None:
    assert ((arithmetic.TARGETS >= 0) & (arithmetic.TARGETS < 301)).all() and np.isfinite(arithmetic.logits()).all()

"""Imported sessions: what a tool printed is what the session says, and nothing that it did not print."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest

from quanttui import errors, imports, session
from quanttui import events as e
from quanttui import state as fold
from quanttui.decide import compare
from quanttui.imports import record
from quanttui.report import bench, markdown
from quanttui.report import csv as as_csv
from quanttui.report import json as as_json
from quanttui.report import text as as_text
from quanttui.stats import divergence
from quanttui.summary import summarize

ROW: dict[str, Any] = {
    "build_commit": "8cf427ff", "build_number": 5163, "cpu_info": "Some CPU", "gpu_info": "GPU A, GPU B",
    "backends": "CUDA", "model_filename": "models/Qwen2.5-7B-Instruct-Q4_K_M.gguf",
    "model_type": "qwen2 7B Q4_K - Medium", "model_size": 4_677_120_000, "model_n_params": 7_615_616_512,
    "n_batch": 2048, "n_ubatch": 512, "n_threads": 8, "cpu_mask": "0x0", "cpu_strict": False, "poll": 50,
    "type_k": "f16", "type_v": "f16", "n_gpu_layers": -1, "n_cpu_moe": 0, "split_mode": "layer", "main_gpu": 0,
    "no_kv_offload": False, "flash_attn": -1, "devices": "auto", "tensor_split": "0.00",
    "tensor_buft_overrides": "none", "load_mode": "auto", "lazy_mode": "auto", "embeddings": False,
    "no_op_offload": 0, "no_host": False, "repack": True, "fit_target": 0, "fit_min_ctx": 0, "n_prompt": 512,
    "n_gen": 0, "n_depth": 0, "test_time": "2025-04-24T11:58:50Z", "avg_ns": 72135640, "stddev_ns": 1453752,
    "avg_ts": 7100.002165, "stddev_ts": 140.341520,
    "samples_ns": [74601900, 71632900, 71745200, 71952700, 70745500], "samples_ts": [6863.1],
}  # fmt: skip
DECODE = ROW | {
    "n_prompt": 0, "n_gen": 128, "test_time": "2025-04-24T11:58:51Z",
    "samples_ns": [1075361300, 1065089400, 1071761200, 1081934900, 1089692600],
}  # fmt: skip
"""Two tests, with the samples and averages of llama-bench's own manual."""


def put(folder: Path, name: str, content: str | bytes | list[dict[str, Any]]) -> Path:
    """A file with this in it; rows as llama-bench writes them."""
    path = folder / name
    if isinstance(content, list):
        content = "[\n" + ",\n".join(json.dumps(row, indent=2) for row in content) + "\n]\n"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def one(*paths: Path) -> imports.Imported:
    (found,) = imports.read(paths)
    return found


def recorded(tmp_path: Path, imported: imports.Imported) -> fold.State:
    """The session that is read back from its folder."""
    return session.load(imports.write(imported, tmp_path / "sessions"))


def said(tmp_path: Path, content: str | bytes | list[dict[str, Any]], name: str = "given.txt") -> str:
    """The line in which a file is refused; it names the file."""
    with pytest.raises(errors.UserError) as caught:
        imports.read([put(tmp_path, name, content)])
    line = str(caught.value)
    assert name in line and "\n" not in line and len(line) < 400
    return line


# --- llama-bench ----------------------------------------------------------------------------------------------------


def test_the_figures_are_llama_benchs_own(tmp_path: Path) -> None:
    state = recorded(tmp_path, one(put(tmp_path, "b.json", [ROW, DECODE])))
    (arm,) = summarize(state).arms
    assert arm.id == arm.quant == "Q4_K_M" and arm.outcome == "ok" and arm.prompt and arm.decode
    assert arm.prompt.tok_s == pytest.approx(7100.002165, abs=1e-6)
    assert arm.prompt.sd == pytest.approx(140.341520, abs=1e-5)
    assert arm.decode.tok_s == pytest.approx(118.881588, abs=1e-6)
    assert arm.decode.sd == pytest.approx(1.041811, abs=1e-5)
    assert arm.settings["threads"] == 8 and arm.settings["batch"] == 2048 and arm.settings["flash_attn"] == "auto"
    assert state.wall == 1745495930.0 and state.host and [gpu.name for gpu in state.host.gpus] == ["GPU A", "GPU B"]
    assert arm.bytes == 4_677_120_000 and session.status(state) == "done"


def test_json_jsonl_log_lines_around_and_other_encodings_say_the_same(tmp_path: Path) -> None:
    array = "[\n" + ",\n".join("  " + json.dumps(row, indent=4) for row in (ROW, DECODE)) + "\n]\n"
    lines = "".join(json.dumps(row) + "\n" for row in (ROW, DECODE))
    amid = f"ggml_cuda_init: found 1 [device]\n{array}\nllama_perf: done {{x}}\n"
    between = "a log line\n".join(["", *(json.dumps(row) + "\n" for row in (ROW, DECODE))])
    other = (array.encode("utf-16"), b"\xef\xbb\xbf" + array.encode())
    forms = (array, lines, amid, between, json.dumps([ROW, DECODE]), *other)
    found = [one(put(tmp_path, f"{number}.json", form)) for number, form in enumerate(forms)]
    assert {(each.arms, each.settings, each.model) for each in found} == {
        (found[0].arms, found[0].settings, "Qwen2.5-7B-Instruct (imported)")
    }
    assert not any("cut off" in note for each in found for note in each.notes)


@pytest.mark.parametrize("share", [0.55, 0.8, 0.95, 0.999])
def test_a_run_that_was_cut_off_gives_its_whole_tests_and_one_line(tmp_path: Path, share: float) -> None:
    array = "[\n" + ",\n".join(json.dumps(row, indent=4) for row in (ROW, DECODE)) + "\n]\n"
    found = one(put(tmp_path, "cut.json", array[: int(share * len(array))] + "\nerror: failed\n"))
    assert len([note for note in found.notes if "cut off" in note]) == 1
    assert next(test.kind for arm in found.arms for test in arm.tests) == "prompt"


def test_nothing_is_claimed_that_was_not_recorded(tmp_path: Path) -> None:
    folder = imports.write(one(put(tmp_path, "b.json", [ROW, DECODE])), tmp_path)
    reader = session.Reader(folder)
    kinds = {type(event) for event in reader.events()}
    reader.close()
    assert not kinds & {e.Sample, e.Tokens, e.Ceiling, e.KernelRate, e.ArmStarted, e.ArmLoaded, e.ProbeFound, e.Beat}
    state = session.load(folder)
    (arm,) = summarize(state).arms
    assert arm.verdicts == () and arm.decode and arm.decode.gb_s is None and arm.decode.mbu is None
    assert arm.energy is None and arm.bits_per_weight is None
    assert all("imported" in state.lost[probe] for probe in ("memory", "swap", "nvidia", "power"))
    assert "(imported)" in state.model and state.opened and any("imported from b.json" in n for n in state.opened.notes)


def test_what_was_read_is_kept_as_it_was(tmp_path: Path) -> None:
    path = put(tmp_path, "b.json", [ROW, DECODE])
    folder = imports.write(one(path), tmp_path / "s")
    (kept,) = (folder / "raw").iterdir()
    assert kept.read_bytes() == path.read_bytes()
    assert json.loads((folder / "manifest.json").read_text())["model"] == "Qwen2.5-7B-Instruct (imported)"


def test_what_goes_out_as_llama_bench_comes_back(tmp_path: Path) -> None:
    state = builders.state(builders.Arm("Q8_0", tokens=16), builders.Arm("Q4_K_M", tok_s=25.0, tokens=16),
                           settings=builders.settings(depths=(0, 512)))  # fmt: skip
    again = recorded(tmp_path, one(put(tmp_path, "ours.jsonl", bench.lines(state))))
    before, after = summarize(state).arms, summarize(again).arms
    assert [arm.id for arm in after] == ["Q8_0", "Q4_K_M"]
    for ours, back in zip(before, after, strict=True):
        assert ours.decode and back.decode
        assert (ours.decode.tok_s, ours.decode.sd) == (back.decode.tok_s, back.decode.sd)
        assert [one.depth for one in back.deeper] == [512]
    first, second = json.loads(bench.report(state)), json.loads(bench.report(again))
    lost = ("build_commit", "build_number", "model_type", "model_n_params", "test_time")
    for row, back in zip(first, second, strict=True):
        assert {k: v for k, v in row.items() if k not in lost} == {k: v for k, v in back.items() if k not in lost}


def test_each_machine_build_model_and_set_of_parameters_is_a_session(tmp_path: Path) -> None:
    rows = [
        ROW, ROW | {"n_threads": 16}, ROW | {"build_commit": "aaaa1111"}, ROW | {"cpu_info": "another"},
        ROW | {"model_filename": "Other-3B-Q8_0.gguf", "model_type": "x 3B Q8_0"},
    ]  # fmt: skip
    found = imports.read([put(tmp_path, "b.json", rows)])
    assert [each.model for each in found] == [
        "Qwen2.5-7B-Instruct (imported, n_threads 8)", "Qwen2.5-7B-Instruct (imported, n_threads 16)",
        "Qwen2.5-7B-Instruct (imported)", "Qwen2.5-7B-Instruct (imported)", "Other-3B (imported)",
    ]  # fmt: skip
    assert [each.settings.threads for each in found] == [8, 16, 8, 8, 8]


def test_other_lengths_caches_and_runs_are_kept_apart(tmp_path: Path) -> None:
    rows = [
        ROW, DECODE, ROW | {"n_prompt": 1024}, ROW | {"type_k": "q8_0", "type_v": "q8_0"}, DECODE,
        ROW | {"n_prompt": 64, "n_gen": 64}, ROW | {"model_filename": "x/Qwen2.5-7B-Instruct-Q8_0.gguf"},
    ]  # fmt: skip
    found = one(put(tmp_path, "b.json", rows))
    assert [arm.id for arm in found.arms] == ["Q4_K_M", "Q4_K_M-pp1024", "Q4_K_M-kv-q8_0", "Q8_0"]
    state = recorded(tmp_path, found)
    assert [len(attempt.decode) for attempt in state.arms["Q4_K_M"].attempts] == [5, 5]
    assert state.arms["Q4_K_M-pp1024"].plan.prompt == 1024
    assert any("1 tests of prompt and generation together" in note for note in found.notes)


def test_quants_are_told_by_the_files_name_or_by_llama_cpps_word(tmp_path: Path) -> None:
    def quant(**changes: Any) -> tuple[str, str]:
        found = one(put(tmp_path, "b.json", [ROW | changes]))
        return found.arms[0].quant, found.model

    assert quant(model_filename="ggml-model.gguf") == ("Q4_K_M", "qwen2 7B (imported)")
    assert quant(model_filename="m.gguf", model_type="llama 7B IQ3_S mix - 3.66 bpw") == ("IQ3_M", "m (imported)")
    assert quant(model_filename="M-UD-Q4_K_XL.gguf") == ("UD-Q4_K_XL", "M (imported)")
    assert quant(model_filename="m.gguf", model_type="nobody knows") == ("unknown", "m (imported)")


def test_older_rows_are_read(tmp_path: Path) -> None:
    old = {k: v for k, v in DECODE.items() if k not in ("n_depth", "load_mode", "repack", "n_ubatch", "lazy_mode")}
    found = one(put(tmp_path, "b.json", [old | {"flash_attn": True, "use_mmap": False}]))
    assert (found.settings.flash_attn, found.settings.load_mode, found.settings.ubatch) == ("on", "none", 2048)


# --- llama-perplexity -----------------------------------------------------------------------------------------------

HEAD = """build: 5163 (8cf427ff) with cc for x86_64-linux-gnu
llama_model_loader: loaded meta data with 35 key-value pairs and 291 tensors from m/Qwen2.5-7B-Instruct-{quant}.gguf (version GGUF V3 (latest))
print_info: file type   = Q4_K - Medium
system_info: n_threads = 8 (n_threads_batch = 8) / 16 | CPU : AVX2 = 1 |
perplexity: calculating perplexity over {chunks} chunks, n_ctx=512, batch_size=2048, n_seq=4
perplexity: 2.00 seconds per pass - ETA 1.00 minutes
"""  # noqa: E501
CHUNKS, EACH = 24, 255


def rows(level: float = 0.02, chunks: int = CHUNKS) -> divergence.Rows:
    """Tokens of a text under a quant and its base."""
    rng = np.random.default_rng(7)
    base = rng.gamma(1.0, 2.0, EACH * chunks)
    nll = base + rng.normal(level, 0.2, EACH * chunks)
    kld = rng.gamma(0.5, 2 * level, EACH * chunks)
    p_diff = rng.normal(-level / 10, level, EACH * chunks)
    return divergence.Rows(nll, base, kld, p_diff, rng.random(EACH * chunks) > level)


def running(nll: Any) -> list[float]:
    return [math.exp(float(nll[: EACH * k].mean())) for k in range(1, len(nll) // EACH + 1)]


def plain_log(
    nll: Any, quant: str = "Q4_K_M", planned: int | None = None, final: bool = True, head: bool = True
) -> str:
    """A log as llama-perplexity prints it."""
    values = running(nll)
    text = HEAD.format(quant=quant, chunks=planned or len(values)) if head else ""
    text += "".join(f"[{k}]{value:.4f}," for k, value in enumerate(values, 1)) + "\n"
    n, mean = len(nll), float(nll.mean())
    error = math.exp(mean) * math.sqrt((float((nll * nll).mean()) - mean * mean) / (n - 1))
    return text + (f"Final estimate: PPL = {math.exp(mean):.4f} +/- {error:.5f}\n" if final else "")


def kld_log(of: divergence.Rows, quant: str = "Q4_K_M") -> str:
    """A log with --kl-divergence."""
    text = HEAD.format(quant=quant, chunks=len(of.nll) // EACH)
    text = text.replace("perplexity: calculating perplexity", "kl_divergence: computing")
    text += "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p\n"  # noqa: E501
    stacked = of.stacked()
    for k in range(1, len(of.nll) // EACH + 1):
        d = divergence.from_rows(divergence.Rows.of(stacked[:, : EACH * k]))
        text += (
            f"{k:4d}    {d.ppl.value:9.4f} ± {d.ppl.error:9.4f}    {d.ln_ratio.value:10.5f} ± {d.ln_ratio.error:10.5f}"
            f"    {d.kld.value:10.5f} ± {d.kld.error:10.5f}    {100 * d.p_diff_rms.value:6.3f} ± "
            f"{100 * (d.p_diff_rms.error or 0):6.3f} %    {100 * d.same_top.value:6.3f} ± "
            f"{100 * (d.same_top.error or 0):6.3f} %\n"
        )
    d = divergence.from_rows(of)
    lines = [
        "====== Perplexity statistics ======",
        *(f"{name:<30}: {x.value:10.6f} ± {x.error:10.6f}" for name, x in (
            ("Mean PPL(Q)", d.ppl), ("Mean PPL(base)", d.ppl_base), ("Mean ln(PPL(Q)/PPL(base))", d.ln_ratio),
            ("Mean PPL(Q)/PPL(base)", d.ratio), ("Mean PPL(Q)-PPL(base)", d.difference))),
        "====== KL divergence statistics ======",
        f"Mean    KLD: {d.kld.value:10.6f} ± {d.kld.error:10.6f}",
        *(f"{'Maximum' if at == 1 else f'{100 * at:4.1f}%  '} KLD: {x:10.6f}" for at, x in d.kld_at.items()),
        "====== Token probability statistics ======",
        f"Mean    Δp: {100 * d.p_diff.value:6.3f} ± {100 * (d.p_diff.error or 0):5.3f} %",
        f"Maximum Δp: {100 * d.p_diff_at[1.0]:6.3f}%",
        f"RMS Δp    : {100 * d.p_diff_rms.value:6.3f} ± {100 * (d.p_diff_rms.error or 0):5.3f} %",
        f"Same top p: {100 * d.same_top.value:6.3f} ± {100 * (d.same_top.error or 0):5.3f} %",
    ]  # fmt: skip
    return text + "\n".join(lines) + "\n"


def test_a_perplexity_and_every_running_value_are_the_logs(tmp_path: Path) -> None:
    nll = rows().nll
    log = plain_log(nll)
    state = recorded(tmp_path, one(put(tmp_path, "p.log", log)))
    (arm,) = summarize(state).arms
    assert arm.id == "Q4_K_M" and arm.perplexity and arm.perplexity.chunks == arm.perplexity.chunks_planned == CHUNKS
    assert f"Final estimate: PPL = {arm.perplexity.value:.4f} +/- {arm.perplexity.se:.5f}" in log
    for k, value in enumerate(running(nll), 1):
        found = state.arms["Q4_K_M"].perplexity(range(k))
        assert found and f"{found[0]:.4f}" == f"{value:.4f}"
    assert state.host and state.host.threads == 16 and state.settings.threads == 8 and state.settings.context == 512


def test_a_kl_divergences_figures_are_the_logs(tmp_path: Path) -> None:
    of = rows()
    log = kld_log(of)
    state = recorded(tmp_path, one(put(tmp_path, "k.log", log)))
    found = as_text.report(state)
    known = state.arms["Q4_K_M"].rows.sums
    d = divergence.from_sums(known)
    for line in (
        f"Mean PPL(Q)                   : {d.ppl.value:10.6f} ± {d.ppl.error:10.6f}",
        f"Mean PPL(base)                : {d.ppl_base.value:10.6f} ± {d.ppl_base.error:10.6f}",
        f"Mean    KLD: {d.kld.value:10.6f} ± {d.kld.error:10.6f}",
        f"Mean    Δp: {100 * d.p_diff.value:6.3f} ± {100 * (d.p_diff.error or 0):5.3f} %",
        f"RMS Δp    : {100 * d.p_diff_rms.value:6.3f} ± {100 * (d.p_diff_rms.error or 0):5.3f} %",
        f"Same top p: {100 * d.same_top.value:6.3f} ± {100 * (d.same_top.error or 0):5.3f} %",
    ):
        assert line in log, line
    exact = divergence.from_rows(of)
    assert d.ln_ratio.value == pytest.approx(exact.ln_ratio.value, abs=1e-6)
    assert d.ln_ratio.error == pytest.approx(exact.ln_ratio.error, abs=1e-6)
    assert d.difference.value == pytest.approx(exact.difference.value, abs=2e-6)
    assert f"{d.kld.value:.6f}" in found and "percentiles: not here" in found
    assert any("Maximum" in note for note in summarize(state).notes), "they are kept in words"
    (arm,) = summarize(state).arms
    assert arm.kld and arm.kld.chunks == CHUNKS and arm.kld.low is not None and arm.kld.low < d.kld.value


def test_a_log_goes_with_the_speeds_of_its_model(tmp_path: Path) -> None:
    bench_file = put(tmp_path, "b.json", [ROW, DECODE, ROW | {"model_filename": "Qwen2.5-7B-Instruct-F16.gguf"}])
    base, quant = rows().nll_base, rows()
    logs = [put(tmp_path, "f16.log", plain_log(base, "F16")), put(tmp_path, "q4.log", kld_log(quant))]
    found = one(*logs, bench_file)
    assert [arm.id for arm in found.arms] == ["Q4_K_M", "F16"] and found.settings.tasks == ("speed", "ppl", "kld")
    state = recorded(tmp_path, found)
    q4 = next(arm for arm in summarize(state).arms if arm.id == "Q4_K_M")
    assert q4.decode and q4.perplexity and q4.delta and q4.delta.base == "F16"
    expected = 100 * math.expm1(float(quant.nll.mean() - base.mean()))
    assert q4.delta.percent == pytest.approx(expected, abs=0.01)
    assert q4.kld and q4.kld.base == "F16", "the base has F16's perplexity"


def test_of_a_text_that_differs_a_session_of_its_own_is_made(tmp_path: Path) -> None:
    shorter = plain_log(rows(chunks=8).nll, "Q8_0")
    logs = [put(tmp_path, "a.log", plain_log(rows().nll)), put(tmp_path, "b.log", shorter)]
    assert [len(each.arms) for each in imports.read(logs)] == [1, 1]


def test_a_plain_log_beside_one_with_kl_divergence_adds_nothing(tmp_path: Path) -> None:
    logs = [put(tmp_path, "a.log", plain_log(rows().nll)), put(tmp_path, "b.log", kld_log(rows()))]
    found = one(*logs)
    assert [arm.id for arm in found.arms] == ["Q4_K_M"] and any("adds nothing" in note for note in found.notes)


def test_a_log_that_ends_early_is_an_arm_that_was_interrupted(tmp_path: Path) -> None:
    state = recorded(tmp_path, one(put(tmp_path, "p.log", plain_log(rows().nll, planned=99, final=False))))
    (arm,) = summarize(state).arms
    assert arm.outcome == "interrupted" and "24 of 99 chunks" in arm.error and state.closed == "failed"
    assert arm.perplexity and arm.perplexity.se and arm.perplexity.chunks_planned == 99


def test_running_values_alone_have_the_error_of_their_chunks(tmp_path: Path) -> None:
    nll = rows().nll
    found = one(put(tmp_path, "ppl-Q5_K_M.txt", plain_log(nll, final=False, head=False)))
    (arm,) = summarize(recorded(tmp_path, found)).arms
    means = nll.reshape(CHUNKS, EACH).mean(axis=1)
    assert arm.quant == "Q5_K_M" and arm.outcome == "ok" and arm.perplexity and arm.perplexity.se
    expected = math.exp(nll.mean()) * means.std(ddof=1) / math.sqrt(CHUNKS)
    assert arm.perplexity.se == pytest.approx(expected, rel=0.01)
    assert any("512, the tool's own" in note for note in found.notes)


def test_a_final_estimate_alone_has_no_interval(tmp_path: Path) -> None:
    log = HEAD.format(quant="Q8_0", chunks=655) + "Final estimate: PPL = 5.9413 +/- 0.03321\n"
    (arm,) = summarize(recorded(tmp_path, one(put(tmp_path, "p.log", log)))).arms
    assert arm.perplexity and f"{arm.perplexity.value:.4f} {arm.perplexity.se:.5f}" == "5.9413 0.03321"


def test_a_perplexity_that_is_no_number_ends_the_arm(tmp_path: Path) -> None:
    log = HEAD.format(quant="Q8_0", chunks=4) + "[1]4.1,[2]4.2,[3]nan,[4]nan,\n"
    (arm,) = summarize(recorded(tmp_path, one(put(tmp_path, "p.log", log)))).arms
    assert "no number from chunk 3" in arm.error and arm.perplexity and arm.perplexity.chunks == 2


# --- what becomes of them -------------------------------------------------------------------------------------------


def test_reports_and_comparisons_take_an_imported_session_as_any_other(tmp_path: Path) -> None:
    files = [put(tmp_path, "b.json", [ROW, DECODE]), put(tmp_path, "k.log", kld_log(rows()))]
    theirs = recorded(tmp_path, one(*files))
    ours = builders.state(builders.Arm("Q4_K_M"))
    for told in (as_text.report(theirs), markdown.report(theirs), as_csv.report(theirs)):
        assert "(imported)" in told and "wall" not in told.replace("firewall", "")
    assert as_json.report(theirs)["arms"][0]["decode"]["mbu"] is None
    both = ((ours, "ours"), (theirs, "theirs"))
    chosen = [compare.Chosen(state, summarize(state), "Q4_K_M", name) for state, name in both]
    found = compare.of(chosen)
    assert found.against[0].speed and "not paired" in found.against[0].why_loss


def test_every_moment_of_it_can_be_shown(tmp_path: Path) -> None:
    files = [put(tmp_path, "b.json", [ROW, DECODE]), put(tmp_path, "k.log", kld_log(rows()))]
    told = list(record.events(one(*files)))
    assert [event.n for event in told] == list(range(len(told)))
    assert all(a.t <= b.t for a, b in pairwise(told)) and told[-1].t > 6
    for state in builders.states(told):
        summarize(state)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_what_is_neither_is_refused_in_one_line_that_says_what_it_should_be(tmp_path: Path) -> None:
    assert "llama-bench" in said(tmp_path, "hello")
    assert "is empty" in said(tmp_path, "")
    assert "no text" in said(tmp_path, b"GGUF\0\0\0\1")
    assert "-o json" in said(tmp_path, "| model | size | t/s |\n| --- |")
    assert "CSV" in said(tmp_path, "build_commit,build_number,cpu_info\n")
    assert "SQL" in said(tmp_path, "INSERT INTO llama_bench (x) VALUES (1);")
    with pytest.raises(errors.UserError, match=r"no-such\.json: cannot be read"):
        imports.read([tmp_path / "no-such.json"])


@pytest.mark.parametrize(
    "change",
    [{"samples_ns": []}, {"samples_ns": [0]}, {"samples_ns": ["x"]}, {"n_prompt": -1}, {"n_prompt": 0},
     {"n_threads": "8"}, {"model_filename": None}, {"n_gen": 1e300}, {"model_filename": "x" * 5000}],
)  # fmt: skip
def test_a_row_that_cannot_be_is_refused_by_its_number(tmp_path: Path, change: dict[str, Any]) -> None:
    assert "test 2" in said(tmp_path, [ROW, ROW | change])


def test_rows_that_lack_keys_and_torn_first_tests_are_refused(tmp_path: Path) -> None:
    assert "samples_ns" in said(tmp_path, [{key: value for key, value in ROW.items() if key != "samples_ns"}])
    assert "no whole test" in said(tmp_path, json.dumps([ROW])[:-500])


def test_logs_of_other_runs_are_refused(tmp_path: Path) -> None:
    log = plain_log(rows().nll)
    assert "2 runs" in said(tmp_path, log + log)
    assert "--ppl-stride" in said(tmp_path, "perplexity_v2: computing\n[1]4.0000,[2]4.1000,\n")
    assert "chunk 1 is followed by chunk 5" in said(tmp_path, "[1]4.0000,[5]4.1000,\n")
    assert "one chunk" in said(tmp_path, "[1]4.0000,\n")
    assert "2>&1" in said(tmp_path, "Final estimate: PPL = 5.9413 +/- 0.03321\n")
    assert "no number" in said(tmp_path, HEAD.format(quant="x", chunks=3) + "[1]nan,\n")


def test_foreign_text_is_clean_wherever_it_lands(tmp_path: Path) -> None:
    nasty = "\x1b[31mred\x07\u202e\r\nx"
    row = {key: f"{value}{nasty}" if isinstance(value, str) else value for key, value in ROW.items()}
    state = recorded(tmp_path, one(put(tmp_path, "b.json", [row])))
    for told in (as_text.report(state), markdown.report(state), as_csv.report(state), bench.report(state)):
        assert not set(told) & {"\x1b", "\x07", "\u202e"}


def test_hostile_json_takes_no_time(tmp_path: Path) -> None:
    deep = '"n_prompt" "n_gen"\n' + "\n".join('{"a":[' * 50 for _ in range(2000))
    assert "no JSON of llama-bench" in said(tmp_path, deep)
    assert "llama-bench" in said(tmp_path, '["n_prompt","n_gen",' + "[" * 100_000)

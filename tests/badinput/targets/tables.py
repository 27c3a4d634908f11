"""Figures that others have published or measured: audit tables, llama-bench's JSON, llama-perplexity's logs."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import strategies as st

from quanttui import audit, imports
from quanttui import state as fold
from quanttui.audit.table import COLUMNS, MOST_ROWS, NUMBERS
from quanttui.imports import record
from quanttui.report import audit as told
from quanttui.report import formats
from quanttui.summary import summarize

from ..structures import REAL, TOKENS, WHOLE, WORDS, encoded, keyed, lines
from ..target import Target, check, finite, numbers, printable, put, strict_json

# --- audit ----------------------------------------------------------------------------------------------------------

TABLES = (
    b"source,device,memory_gb,peak_gbps,model,quant,size_gb,tok_s,ppl,ppl_delta_pct,swapped,tok_s_per_w,claim\n"
    b'post,Laptop,16,68.3,Llama-3.1-8B,Q4_K_M,4.92,11.9,6.41,1.1,no,0.4,"fast, for 28 W"\n'
    b"post,Laptop,16,68.3,Llama-3.1-8B,Q8_0,8.54,7.1,6.34,,no,,\n"
    b"post,Laptop,16,68.3,Llama-3.1-8B,F16,16.1,0.9,6.34,0.0,yes,,base\n"
    b"other,2x GPU,48,1008,Mixtral-8x7B,Q4_K_M,26.4,55,3.9,0.5,no,0.1,\n",
    b"model,quant,tok_s\r\nQwen2.5-7B,Q4_K_M,20\r\n# a comment\r\nQwen2.5-7B,Q2_K,19.5\r\n",
)


def _audit(data: bytes, folder: Path) -> None:
    """A table's rows hold figures that can be, each of a line that is there, and what is said of them has numbers."""
    path = put(folder, "case.csv", data)
    table = audit.read(path)
    check(0 < len(table.rows) <= MOST_ROWS, "rows")
    for row in table.rows:
        check(1 <= row.line <= data.count(b"\n") + data.count(b"\r") + 1, f"line {row.line}")
        for column, (least, most, _) in NUMBERS.items():
            figure = getattr(row, column)
            check(figure is None or least <= figure.value <= most, f"{column} = {figure}")
            check(figure is None or math.isclose(float(figure.text), figure.value), f"{column} = {figure}")
    for note in table.notes:
        printable(note, "a note", "")
    found = audit.audit(table)
    check(len(found.rows) == len(table.rows), "rows are lost")
    text = told.report(found)
    printable(text, "the report")
    numbers(text, "the report", data)
    finite(strict_json(json.dumps(told.data(found)), "its data"), "its data")


_CELL = (
    TOKENS.map(lambda one: f'"{one}"')
    | TOKENS
    | st.sampled_from(
        ["Llama-3.1-8B", "Q4_K_M", "F16", "Laptop", "yes", "no", "16", "1e-3", "1e6", "4.9", "12 W", "2x 3090", ""]
    )
)
ROWS = st.builds(
    lambda head, rest: ",".join(head).encode() + b"\n" + rest,
    st.permutations(COLUMNS) | st.lists(st.sampled_from(COLUMNS), min_size=2, max_size=8),
    lines(_CELL, ","),
)
FULL = st.lists(st.tuples(*(_CELL for _ in COLUMNS)).map(lambda cells: ",".join(cells)), min_size=1, max_size=5).map(
    lambda rows: (",".join(COLUMNS) + "\n" + "\n".join(rows)).encode("utf-8", "surrogatepass")
)


# --- llama-bench ----------------------------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "build_commit": "8cf427ff",
    "build_number": 5163,
    "cpu_info": "Some CPU",
    "gpu_info": "GPU A, GPU B",
    "backends": "CUDA",
    "model_filename": "models/Qwen2.5-7B-Instruct-Q4_K_M.gguf",
    "model_type": "qwen2 7B Q4_K - Medium",
    "model_size": 4_677_120_000,
    "model_n_params": 7_615_616_512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 8,
    "type_k": "f16",
    "type_v": "f16",
    "n_gpu_layers": -1,
    "split_mode": "layer",
    "flash_attn": -1,
    "tensor_split": "0.00",
    "use_mmap": True,
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "test_time": "2025-04-24T11:58:50Z",
    "avg_ns": 72135640,
    "stddev_ns": 1453752,
    "avg_ts": 7100.0,
    "stddev_ts": 140.3,
    "samples_ns": [74601900, 71632900, 71745200],
    "samples_ts": [6863.1],
}
OTHER = ROW | {"n_prompt": 0, "n_gen": 128, "samples_ns": [1075361300, 1065089400], "model_filename": "m-Q8_0.gguf"}
BENCHES = (
    json.dumps([ROW, OTHER], indent=1).encode(),
    json.dumps(ROW).encode() + b"\na log line\n" + json.dumps(OTHER).encode() + b"\n",
)


def _bench(data: bytes, folder: Path) -> None:
    """The sessions that a file makes have its tests' own times, and reports that have numbers."""
    found = imports.read([put(folder, "case.json", data)])
    check(found, "no session")
    taken = [ns for one in found for arm in one.arms for test in arm.tests for ns in test.ns]
    check(all(0 < ns <= 10**18 for ns in taken), "a time")
    for ns in taken:
        check(
            str(ns).encode() in data.replace(b"\0", b"") or b"\\u" in data or b"e" in data,
            f"{ns} ns are not in the file",
        )
    for one in found[:3]:
        _reported(one, data)


def _reported(one: imports.Imported, data: bytes) -> None:
    state = fold.fold(record.events(one))
    form = Random(len(data)).choice(("text", "json", "md", "csv"))
    text = formats.write(form, state, True)
    printable(text.replace("\r\n", "\n") if form == "csv" else text, "the report")
    numbers(text, "the report", data)
    if form == "json":
        finite(strict_json(text, "the report"), "the report")


BENCH_ROWS = st.lists(
    keyed(
        {
            key: (WHOLE if isinstance(value, int) else REAL if isinstance(value, float) else WORDS) | st.just(value)
            for key, value in ROW.items()
            if key != "samples_ns"
        }
        | {"samples_ns": st.lists(st.integers(1, 10**12) | WHOLE, max_size=4)},
        ["n_prompt", "n_gen", "model_filename", "n_batch", "n_threads", "samples_ns", "build_commit"],
    ),
    min_size=1,
    max_size=3,
).map(encoded)


# --- llama-perplexity -----------------------------------------------------------------------------------------------


def _log(
    values: list[str], chunks: object = None, final: tuple[str, str] | None = None, context: object = 512
) -> bytes:
    head = (
        "build: 5163 (8cf427ff)\nllama_model_loader: loaded meta data with 26 key-value pairs and 290 tensors from"
        " models/m-Q4_K_M.gguf (version GGUF V3)\nllama_model_loader: - kv 1: general.name str = Tiny\nprint_info: file"
        " type   = Q4_K - Medium\nsystem_info: n_threads = 8 (n_threads_batch = 8) / 16 | AVX = 1\n"
        f"perplexity: calculating perplexity over {len(values) if chunks is None else chunks} chunks, n_ctx={context},"
        " batch_size=2048, n_seq=4\nperplexity: 1.25 seconds per pass - ETA 0.50 minutes\n"
    )
    shown = "".join(f"[{number}]{value}," for number, value in enumerate(values, 1))
    last = f"\nFinal estimate: PPL = {final[0]} +/- {final[1]}\n" if final else "\n"
    return (head + shown + last).encode("utf-8", "surrogatepass")


def _kld_log() -> bytes:
    head = _log([], 3).replace(b"\n\n", b"\n")
    each = "\n".join(
        f"{k:4d}    {8 + k / 10:9.4f} ±    0.1000    {0.01 * k:10.5f} ±    0.00500    {0.02:10.5f} ±    0.00100"
        f"     3.000 ±  0.100 %    95.000 ±  0.500 %"
        for k in (1, 2, 3)
    )
    last = """
====== Perplexity statistics ======
Mean PPL(Q)                   :   8.300000 ±   0.100000
Mean PPL(base)                :   8.050000 ±   0.100000
Mean ln(PPL(Q)/PPL(base))     :   0.030000 ±   0.005000
====== KL divergence statistics ======
Mean    KLD:   0.020000 ±   0.001000
Maximum KLD:   1.500000
99.9%   KLD:   0.900000
====== Token probability statistics ======
Mean    Δp: -0.100 ± 0.050 %
Maximum Δp: 40.000%
RMS Δp    :  3.000 ± 0.100 %
Same top p: 95.000 ± 0.500 %
"""
    return head + each.encode() + last.encode()


LOGS = (
    _log(["8.1234", "8.2000", "8.0100", "7.9"], None, ("7.9012", "0.05000")),
    _log(["8.1", "8.2"], 5),
    _log([], 100, ("7.9", "0.05")),
    _kld_log(),
)
_FINAL = re.compile(rb"Final estimate: PPL = (\d{1,9}\.\d{1,9}) \+/- (\d{1,9}\.\d{1,9})\s")


def _perplexity(data: bytes, folder: Path) -> None:
    """Where a log ends with an estimate, that is what the session says."""
    found = imports.read([put(folder, "case.log", data)])
    check(len(found) == 1, "sessions")
    (one,) = found
    _reported(one, data)
    last = _FINAL.findall(data)
    (row, *_) = summarize(fold.fold(record.events(one)), True).arms
    check(row.perplexity is None or row.perplexity.value > 0, "a perplexity")
    if len(last) == 1 and b"KL divergence" not in data and row.perplexity and data.isascii():
        wanted = float(last[0][0])
        check(
            math.isclose(row.perplexity.value, wanted, rel_tol=1e-6), f"{row.perplexity.value}, the log says {wanted}"
        )


PERPLEXITIES = st.builds(
    _log,
    st.lists(st.floats(1, 100).map(lambda one: f"{one:.4f}") | TOKENS, max_size=5),
    st.none() | st.none() | TOKENS | WHOLE,
    st.none() | st.tuples(st.floats(1, 99).map(str) | TOKENS, st.floats(0, 9).map(str) | TOKENS),
    st.just(512) | WHOLE | TOKENS,
)

TARGETS = (
    Target(
        "audit",
        lambda: TABLES,
        _audit,
        "text",
        ROWS | FULL,
        (
            "quanttui.audit.table",
            "quanttui.audit.judge",
            "quanttui.audit.speed",
            "quanttui.audit.perplexity",
            "quanttui.audit.weigh",
        ),
        tuple(column.encode() for column in COLUMNS),
        names=("case.csv",),
        share=2.0,
    ),
    Target(
        "llama-bench",
        lambda: BENCHES,
        _bench,
        "json",
        BENCH_ROWS,
        ("quanttui.imports.bench", "quanttui.imports.gather", "quanttui.imports.record"),
        tuple(f'"{key}": '.encode() for key in ROW),
        names=("case.json",),
        share=1.0,
    ),
    Target(
        "llama-perplexity",
        lambda: LOGS,
        _perplexity,
        "text",
        PERPLEXITIES,
        ("quanttui.imports.perplexity", "quanttui.imports.gather"),
        (b"[2]nan,", b"[1]inf,", b"Final estimate: PPL = ", b"KL divergence statistics", b"n_ctx=", b" chunks"),
        names=("case.log",),
        share=1.2,
    ),
)

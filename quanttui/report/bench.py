"""The report as llama-bench prints it (`-o json`, `-o jsonl`), so that whatever reads llama-bench reads a session.

One object for each test: the repetitions of one kind, at one depth, of one arm's latest attempt; what was disturbed is
left out. Keys, order, types and units are those of llama-bench at the revision vendored by llama-cpp-python 0.3.36
(tools/llama-bench): `avg_ns`, `stddev_ns` and `samples_ns` nanoseconds, `avg_ts`, `stddev_ts` and `samples_ts` tokens
per second, `model_size` bytes of all tensors, `test_time` when the first repetition began, in UTC.

What a session does not know is given as llama-bench gives it where it was not asked for anything: `cpu_mask` "0x0",
`cpu_strict` false, `poll` 50, `n_cpu_moe` 0, `main_gpu` 0, `no_kv_offload` false, `devices` "auto",
`tensor_buft_overrides` "none", `lazy_mode` "auto", `embeddings` false, `no_op_offload` 0, `no_host` false, `fit_target`
and `fit_min_ctx` 0, "" and 0 for a text and a size. Its word for a model's size class ("7B") is not recorded: "?B",
which it prints for sizes that it has no word for. `model_filename` is the name without its folder: llama.cpp's
compare-llama-bench.py holds only runs of one name against each other. So it does by `build_commit`: that is
llama.cpp's commit where the session knows it, else the version of llama-cpp-python, which comes with one commit.

The form has no place for a verdict: `warnings` says which of its speeds are contaminated.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

from quanttui import quants
from quanttui.diagnosis import windows
from quanttui.events import Build, Host
from quanttui.format import clean, json_text
from quanttui.state import Arm, Repetition, State
from quanttui.stats.intervals import mean_sd
from quanttui.summary import summarize, tainted

FIELDS = (
    "build_commit", "build_number", "cpu_info", "gpu_info", "backends", "model_filename", "model_type", "model_size",
    "model_n_params", "n_batch", "n_ubatch", "n_threads", "cpu_mask", "cpu_strict", "poll", "type_k", "type_v",
    "n_gpu_layers", "n_cpu_moe", "split_mode", "main_gpu", "no_kv_offload", "flash_attn", "devices", "tensor_split",
    "tensor_buft_overrides", "load_mode", "lazy_mode", "embeddings", "no_op_offload", "no_host", "repack", "fit_target",
    "fit_min_ctx", "n_prompt", "n_gen", "n_depth", "test_time", "avg_ns", "stddev_ns", "avg_ts", "stddev_ts",
    "samples_ns", "samples_ts",
)  # fmt: skip
"""llama-bench's keys, in its order."""

TYPE_NAMES: dict[str, str] = {
    "F32": "all F32", "MXFP4_MOE": "MXFP4 MoE",
    "Q2_K": "Q2_K - Medium", "Q2_K_S": "Q2_K - Small",
    "Q3_K_S": "Q3_K - Small", "Q3_K_M": "Q3_K - Medium", "Q3_K_L": "Q3_K - Large",
    "Q4_K_S": "Q4_K - Small", "Q4_K_M": "Q4_K - Medium", "Q5_K_S": "Q5_K - Small", "Q5_K_M": "Q5_K - Medium",
    "TQ1_0": "TQ1_0 - 1.69 bpw ternary", "TQ2_0": "TQ2_0 - 2.06 bpw ternary",
    "IQ2_XXS": "IQ2_XXS - 2.0625 bpw", "IQ2_XS": "IQ2_XS - 2.3125 bpw", "IQ2_S": "IQ2_S - 2.5 bpw",
    "IQ2_M": "IQ2_M - 2.7 bpw", "IQ3_XS": "IQ3_XS - 3.3 bpw", "IQ3_XXS": "IQ3_XXS - 3.0625 bpw",
    "IQ1_S": "IQ1_S - 1.5625 bpw", "IQ1_M": "IQ1_M - 1.75 bpw", "IQ4_NL": "IQ4_NL - 4.5 bpw",
    "IQ4_XS": "IQ4_XS - 4.25 bpw", "IQ3_S": "IQ3_S - 3.4375 bpw", "IQ3_M": "IQ3_S mix - 3.66 bpw",
}  # fmt: skip
"""What llama.cpp calls a quant in a model's description (llama_ftype_name), where that is not the quant's name."""

_FLASH = {"auto": -1, "off": 0, "on": 1}
_HOST_DEVICES = re.compile(r"^(?:CPU|BLAS|Accelerate|AMX|ZenDNN|KleidiAI)", re.IGNORECASE)
_COMMIT, _NUMBER = re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{7,40}\b"), re.compile(r"\bb?(\d{3,6})\b")


def report(state: State) -> str:
    """The session as `llama-bench -o json` prints it: an array, a newline at its end."""
    lines = ",\n".join(f"  {json_text(row, None)}" for row in rows(state))
    return f"[\n{lines}\n]\n"


def lines(state: State) -> str:
    """The same as `-o jsonl` prints it: an object a line, "" where nothing was timed."""
    return "".join(json_text(row, None) + "\n" for row in rows(state))


def warnings(state: State) -> tuple[str, ...]:
    """What the form cannot say: a line for each arm with a speed that is not the quant's own."""
    found = []
    for arm in summarize(state).arms:
        kinds = [kind for kind, speed in (("prompt", arm.prompt), ("decode", arm.decode)) if speed is not None]
        bad = [kind for kind in kinds if tainted(arm.verdicts, kind)]
        why = next((one.code for one in arm.verdicts if one.kind == "contaminated"), "")
        if bad:
            found.append(f"{arm.id}: {' and '.join(bad)} contaminated ({why}), and llama-bench's form cannot say so")
    return tuple(found)


def rows(state: State) -> list[dict[str, Any]]:
    """An object for each test, by arm in the plan's order, prompt before decode, the first depth before the others."""
    return [_row(state, arm, test) for arm in state.arms.values() for test in _tests(state, arm)]


def _tests(state: State, arm: Arm) -> Iterator[Sequence[Repetition]]:
    """The repetitions that the summary's figures are of, by test."""
    deeper = next((one for one in reversed(arm.attempts) if one.deeper), None)
    for kind in ("prompt", "decode"):
        attempt = windows.latest(arm, kind)
        if attempt is not None:
            yield attempt.repetitions(kind)
        for depth in state.settings.depths[1:] if deeper else ():
            if found := deeper.at_depth(kind, depth) if deeper else []:
                yield found


def _row(state: State, arm: Arm, test: Sequence[Repetition]) -> dict[str, Any]:
    unit, samples = test[0].unit, [one.ns for one in test]
    rates = [one.tok_s for one in test]
    (avg_ns, sd_ns), (avg_ts, sd_ts) = mean_sd(samples), mean_sd(rates)
    values = {
        **_build(state.build),
        **_devices(state.build, state.host),
        **_model(arm),
        **_parameters(state, arm),
        "n_prompt": unit.tokens if unit.kind == "prompt" else 0,
        "n_gen": unit.tokens if unit.kind == "decode" else 0,
        "n_depth": unit.depth,
        "test_time": _utc(state.wall + test[0].at) if state.wall > 0 else "",
        "avg_ns": int(avg_ns),
        "stddev_ns": int(sd_ns or 0.0),
        "avg_ts": round(avg_ts, 6),
        "stddev_ts": round(sd_ts or 0.0, 6),
        "samples_ns": samples,
        "samples_ts": [_six_digits(rate) for rate in rates],
    }
    return {name: values[name] for name in FIELDS}


def _build(build: Build | None) -> dict[str, Any]:
    """The commit as far as the session knows it: `0.5.0-dev`, `b6401`, `5163 (8cf427ff)`."""
    said = clean(build.llama_cpp, 80) if build else ""
    commit, number = _COMMIT.search(said), _NUMBER.search(_COMMIT.sub("", said))
    version = clean(build.llama_cpp_python, 40) if build else ""
    return {
        "build_commit": commit[0] if commit else version or "unknown",
        "build_number": int(number[1]) if number else 0,
    }


def _devices(build: Build | None, host: Host | None) -> dict[str, Any]:
    """ggml's own descriptions where it told them, else the host's."""
    told = [clean(one, 200).partition(": ") for one in build.devices] if build else []
    cpus = [about for name, _, about in told if _HOST_DEVICES.match(name)]
    gpus = [(name, about) for name, _, about in told if not _HOST_DEVICES.match(name)]
    named = [about for _, about in gpus] or [clean(one.name, 200) for one in (host.gpus if host else ())]
    backends = dict.fromkeys(re.sub(r"\d+$", "", name) for name, _ in gpus)
    return {
        "cpu_info": ", ".join(cpus) or (clean(host.cpu, 200) if host else ""),
        "gpu_info": ", ".join(named),
        "backends": ",".join(backends) or ("" if build is None or build.gpu_offload else "CPU"),
    }


def _model(arm: Arm) -> dict[str, Any]:
    file = arm.file
    path = clean(file.file if file else arm.plan.file, 1000).replace("\\", "/")
    quant = clean(file.quant if file else arm.plan.quant, 80)
    known = quants.named(quant)
    kind = TYPE_NAMES.get(known.name, known.name) if known else quant
    shape = file.shape if file else None
    tensors = sum(group.bytes for group in shape.tensors) if shape else 0
    return {
        "model_filename": PurePath(path).name,
        "model_type": f"{clean(shape.architecture, 40)} ?B {kind}" if shape else kind,
        "model_size": tensors or (file.bytes if file else arm.plan.bytes) or 0,
        "model_n_params": shape.parameters if shape else 0,
    }


def _parameters(state: State, arm: Arm) -> dict[str, Any]:
    """What was asked for; `n_gpu_layers` too, as llama-bench has it."""
    asked, loaded = state.settings, arm.attempt.loaded if arm.attempt else None
    kv = clean(arm.plan.kv or asked.kv, 40).lower()
    key, _, value = kv.partition("/")
    return {
        "n_batch": asked.batch,
        "n_ubatch": asked.ubatch,
        "n_threads": (loaded.threads if loaded else 0) or asked.threads,
        "cpu_mask": "0x0",
        "cpu_strict": False,
        "poll": 50,
        "type_k": key,
        "type_v": value or key,
        "n_gpu_layers": asked.gpu_layers,
        "n_cpu_moe": 0,
        "split_mode": clean(asked.split_mode, 20),
        "main_gpu": 0,
        "no_kv_offload": False,
        "flash_attn": _FLASH.get(asked.flash_attn, -1),
        "devices": "auto",
        "tensor_split": "/".join(f"{share:.2f}" for share in asked.tensor_split or (0.0,)),
        "tensor_buft_overrides": "none",
        "load_mode": clean(asked.load_mode, 20),
        "lazy_mode": "auto",
        "embeddings": False,
        "no_op_offload": 0,
        "no_host": False,
        "repack": asked.repack,
        "fit_target": 0,
        "fit_min_ctx": 0,
    }


def _utc(wall: float) -> str:
    """Unix time as RFC 3339, "" for one that no calendar has."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall))
    except (OverflowError, ValueError, OSError):
        return ""


def _six_digits(rate: float) -> float | None:
    return float(f"{rate:.6g}") if math.isfinite(rate) else None

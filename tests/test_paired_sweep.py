"""Whole sweeps of the pocket model on the real engine: KL divergence however its base comes, and early decisions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quanttui import session

QUANTS = "F16,Q8_0,Q3_K_M,Q2_K"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where sessions go, and the quants, made once."""
    return tmp_path_factory.mktemp("paired")


def sweep(folder: Path, name: str, *words: str) -> dict[str, Any]:
    """A headless sweep of the pocket model, as its JSON; the session is `folder / name`."""
    command = [
        sys.executable, "-m", "quanttui", "demo", "--headless", "--json", "--quants", QUANTS, "--session",
        str(folder / name), *words,
    ]  # fmt: skip
    environment = {"QUANTTUI_CACHE_DIR": str(folder / "cache"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def arms(told: dict[str, Any]) -> dict[str, Any]:
    return {arm["id"]: arm for arm in told["arms"]}


def test_kl_divergence_is_the_same_by_file_beside_and_by_a_file_that_was_there(folder: Path) -> None:
    kept = sweep(folder, "file", "--tasks", "kld", "--chunks", "10", "--kld", "file")
    beside = sweep(folder, "beside", "--tasks", "kld", "--chunks", "10", "--kld", "beside")
    for name in ("Q8_0", "Q3_K_M", "Q2_K"):
        one, other = arms(kept)[name]["kld"], arms(beside)[name]["kld"]
        assert one == other and one["chunks"] == 10 and one["base"] == "F16"
        assert 0 < one["mean"] < 1
    assert arms(kept)["F16"]["kld"] is None
    for name in ("file", "beside"):
        assert not list((folder / name / "raw").glob("base.logits*")), "what can be made again is not left lying"


def test_base_logits_that_do_not_fit_are_kept_for_the_first_chunks_and_it_says_so(folder: Path) -> None:
    told = sweep(folder, "capped", "--tasks", "kld", "--chunks", "10", "--kld", "file", "--kld-gib", "0.004")
    state = session.load(folder / "capped")
    assert state.base is not None and 0 < state.base.chunks < 10
    assert arms(told)["Q2_K"]["kld"]["chunks"] == state.base.chunks
    assert arms(told)["Q2_K"]["perplexity"]["chunks"] == 10
    assert any("--kld-gib" in note.text for note in state.notes)


def test_a_deciding_sweep_makes_the_calls_of_a_full_one_with_fewer_chunks(folder: Path) -> None:
    early = sweep(folder, "decided", "--tasks", "ppl", "--until", "decided", "--tolerance", "1%")
    full = sweep(folder, "full", "--tasks", "ppl", "--full")
    calls = {name: (arm["decision"] or {}).get("call") for name, arm in arms(early).items()}
    assert calls == {name: (arm["decision"] or {}).get("call") for name, arm in arms(full).items()}
    assert (calls["Q8_0"], calls["Q3_K_M"], calls["Q2_K"]) == ("within", "worse", "worse")
    scored = {name: arm["perplexity"]["chunks"] for name, arm in arms(early).items()}
    assert scored["Q8_0"] < 30 and scored["Q2_K"] < 40
    assert all(arm["perplexity"]["chunks"] == 72 for arm in arms(full).values())


def test_turns_with_two_kv_types_and_two_depths_give_every_figure(folder: Path) -> None:
    told = sweep(
        folder, "turns", "--quants", "Q8_0,Q2_K", "--tasks", "speed", "--schedule", "abba", "--depth", "0,64",
        "--kv", "f16,q8_0", "-p", "32", "-n", "16", "-r", "2",
    )  # fmt: skip
    assert set(arms(told)) == {"Q8_0", "Q2_K", "Q8_0-kv-q8_0", "Q2_K-kv-q8_0"}
    for arm in told["arms"]:
        assert arm["decode"]["n"] == arm["prompt"]["n"] == 2
        (deeper,) = arm["depths"]
        assert deeper["depth"] == 64 and deeper["decode"]["tok_s"] > 0
    made = {one.kv for one in session.load(folder / "turns").arms["Q2_K-kv-q8_0"].attempts[0].contexts.values()}
    assert made == {"q8_0"}

"""Ghosts: files of a shape that llama.cpp loads, cuts any text with, and computes finite logits from."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quanttui.errors import UserError
from quanttui.models import ghost
from quanttui.models import header as headers
from quanttui.models.ghost import GhostShape

SHAPE = GhostShape(layers=2, embedding=64, heads=4, heads_kv=2, feed_forward=96, vocabulary=1300, context=512)


def shapes() -> st.SearchStrategy[GhostShape]:
    """Small models of any proportion."""
    return st.builds(
        lambda layers, groups, shared, half, hidden, vocabulary, context, tied: GhostShape(
            layers, 2 * half * groups * shared, groups * shared, groups, hidden, vocabulary, context, tied
        ),
        *(st.integers(1, 3) for _ in range(3)),
        st.integers(1, 8),
        st.integers(1, 80),
        st.integers(286, 2000),
        st.integers(1, 10_000),
        st.booleans(),
    )


@settings(max_examples=30, deadline=None)
@given(shapes())
def test_the_header_tells_the_shape_asked_for(tmp_path_factory: pytest.TempPathFactory, shape: GhostShape) -> None:
    path = tmp_path_factory.mktemp("ghost") / "ghost.gguf"
    ghost.write(path, shape)
    header = headers.read(path)
    found = headers.shape(header)
    assert (found.layers, found.embedding, found.feed_forward) == (shape.layers, shape.embedding, shape.feed_forward)
    assert (found.heads, found.head_count_kv) == (shape.heads, (shape.heads_kv,) * shape.layers)
    assert (found.vocabulary, found.context, found.tied) == (shape.vocabulary, shape.context, shape.tied)
    assert found.parameters == shape.parameters
    assert header.file_bytes == path.stat().st_size
    assert ghost.estimate(shape) == pytest.approx(path.stat().st_size, rel=0.01, abs=512)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ghost.write(tmp_path / name, SHAPE, seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()
    assert (tmp_path / "a").stat().st_size == (tmp_path / "c").stat().st_size


def test_the_blocks_in_which_weights_are_made_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor's weights are one sequence of random numbers, however it is cut."""
    ghost.write(tmp_path / "whole", SHAPE)
    monkeypatch.setattr(ghost, "BLOCK", 1000)
    ghost.write(tmp_path / "cut", SHAPE)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "cut").read_bytes()


@given(st.integers(286, 60_000))
def test_pieces_are_as_many_as_asked_for_and_all_different(size: int) -> None:
    found = list(ghost.pieces(size))
    assert len(found) == len(set(found)) == size


def test_every_longer_piece_is_made_of_two_shorter_ones() -> None:
    """Else the tokenizer, which merges two pieces at a time, would never come to it."""
    made = list(ghost.pieces(25_000))[259:]
    known = set(made)
    assert all(len(piece) == 1 or {piece[:-1], piece[-1]} <= known for piece in made)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": 0}, "at least 1"),
        ({"embedding": 60}, "no 4 heads of an even length"),
        ({"heads_kv": 3}, "cannot share 3 KV heads"),
        ({"vocabulary": 285}, "at least 286"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_in_one_line(change: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(SHAPE, **change)


def test_what_cannot_be_written_is_one_line_with_the_files_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ghost\.gguf.*cannot be written"):
        ghost.write(tmp_path / "nowhere" / "ghost.gguf", SHAPE)


# llama.cpp's own opinion

TEXTS = ("a plain line of words", "Grüße, 世界 \U0001f600!", "\x00\t\n", "")


def main(path: str) -> None:
    """Load the file, cut the texts, decode one: what came of it, as JSON."""
    import numpy as np

    from quanttui.engine import llama
    from quanttui.events import Settings

    log, abort = llama.start(), llama.AbortFlag()
    model = llama.Model(path, Settings(gpu_layers=0), log, abort, lambda _: None)
    context = llama.Context(model, Settings(gpu_layers=0), 64, 1, abort)
    cut = [model.tokenize(text.encode()).tolist() for text in TEXTS]
    rows = []
    for position, token in enumerate(cut[0]):
        context.step(token, position)
        pointer = llama.lib.llama_get_logits_ith(context.handle, -1)
        rows.append(np.ctypeslib.as_array(pointer, (model.vocabulary.size,)).copy())
    logits = np.array(rows)
    told = {
        "cut": cut,
        "adds_eos": model.adds_eos,
        "vocabulary": model.vocabulary.size,
        "finite": bool(np.isfinite(logits).all()),
        "deviation": float(logits.std()),
        "favourites": len(set(logits.argmax(axis=1).tolist())),
    }
    print(json.dumps(told))


@pytest.mark.parametrize("tied", [False, True])
def test_llama_cpp_loads_it_cuts_any_text_and_computes_logits_of_a_real_models_kind(tmp_path: Path, tied: bool) -> None:
    path = tmp_path / "ghost.gguf"
    ghost.write(path, replace(SHAPE, tied=tied))
    done = subprocess.run([sys.executable, __file__, str(path)], capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    words, foreign, control, empty = found["cut"]
    assert found["vocabulary"] == SHAPE.vocabulary and not found["adds_eos"]
    assert words[0] == foreign[0] == control[0] == 1 and empty == [1], "BOS begins each"
    assert len(words) < len(TEXTS[0]), "pieces of letters, not bytes"
    assert len(foreign) > len("Grüße, 世界 😀!"), "bytes for what has no piece"
    assert 0 not in {*words, *foreign, *control}, "nothing is unknown"
    assert found["finite"] and found["favourites"] > 1
    assert math.isclose(found["deviation"], ghost.SPREAD, rel_tol=0.5)


if __name__ == "__main__":
    main(sys.argv[1])

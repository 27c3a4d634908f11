"""Trains the pocket model from nothing: `python -m quanttui.models.pocket.train --out DIR --seed 1 --steps N`.

Writes into DIR the model as F16 GGUF, the held-out text, the importance matrix over training text and `pocket.json`,
which says what they were made with. Everything follows from the seed; the last bits of the weights also from the
machine's arithmetic. Training and held-out stories come from different seeds. Needs the extra `train` (JAX).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from quanttui.errors import UserError
from quanttui.models import imatrix
from quanttui.models.pocket import HELD_OUT_SEED, IMATRIX, MODEL, RECORD, SEED, TEXT
from quanttui.models.pocket.pieces import BOS, EOS, UNK, Vocabulary, learn
from quanttui.models.pocket.stories import stories

if TYPE_CHECKING:
    from quanttui.models.pocket.network import Shape, Weights

WINDOW = 512
BATCH = 4
N_CTX = 2048
LEARN_STORIES = 2000
HELD_OUT_CHUNKS = 72
IMATRIX_CHUNKS = 64
PEAK_RATE, WARM_UP, DECAY, BETAS = 3e-3, 60, 0.1, (0.9, 0.97)


def corpus(seed: int, chunks: int, vocabulary: Vocabulary) -> str:
    """Whole stories, parted by empty lines, of at least `chunks` windows of 512 tokens; one newline at the end."""
    told: list[str] = []
    tokens = 1
    for story in stories(seed):
        told.append(story)
        tokens += len(vocabulary.encode(story + "\n\n", start=len(told) == 1))
        if tokens > chunks * WINDOW + 2:
            break
    return "\n\n".join(told) + "\n"


def windows(seed: int, vocabulary: Vocabulary) -> Iterator[np.ndarray[Any, np.dtype[np.int32]]]:
    """Endless (batch, 512) ids, each window beginning with BOS as llama.cpp's perplexity chunks do; no story twice."""
    size, held = BATCH * WINDOW, [BOS]
    for story in stories(seed):
        held += vocabulary.encode(story + "\n\n", start=False)
        while len(held) >= size:
            batch = np.array(held[:size], np.int32).reshape(BATCH, WINDOW)
            batch[:, 0] = BOS
            yield batch
            del held[:size]


@cache
def optimizer(shape: Shape, steps: int) -> Callable[..., tuple[Weights, Any, Any]]:
    """One compiled step of AdamW: linear warm-up, cosine to a hundredth, gradients clipped to norm 1."""
    import jax
    import jax.numpy as jnp

    from quanttui.models.pocket.network import loss

    def step(weights: Weights, moments: Any, at: Any, batch: Any) -> tuple[Weights, Any, Any]:
        value, slopes = jax.value_and_grad(partial(loss, shape))(weights, batch)
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(slopes)))
        slopes = jax.tree.map(lambda g: g / jnp.maximum(norm, 1.0), slopes)
        cosine = 0.505 + 0.495 * jnp.cos(math.pi * at / steps)
        rate = PEAK_RATE * jnp.minimum(1.0, (at + 1) / WARM_UP) * cosine
        b1, b2 = BETAS
        first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, moments[0], slopes)
        second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, moments[1], slopes)

        def moved(w: Any, m: Any, v: Any) -> Any:
            push = m / (1 - b1 ** (at + 1)) / (jnp.sqrt(v / (1 - b2 ** (at + 1))) + 1e-8)
            return w - rate * (push + (DECAY * w if w.ndim > 1 else 0.0))

        return jax.tree.map(moved, weights, first, second), (first, second), value

    compiled: Callable[..., tuple[Weights, Any, Any]] = jax.jit(step, donate_argnums=(0, 1))
    return compiled


def train(
    shape: Shape, vocabulary: Vocabulary, seed: int, steps: int, say: Callable[[str], None]
) -> tuple[Weights, float]:
    """The trained weights (float32, by GGUF tensor name) and the mean loss in nats over the last twentieth of steps."""
    import jax

    from quanttui.models.pocket.network import start

    weights = start(shape, seed)
    moments = (jax.tree.map(lambda w: 0 * w, weights), jax.tree.map(lambda w: 0 * w, weights))
    step, losses, began = optimizer(shape, steps), [], time.monotonic()
    for at, batch in enumerate(islice(windows(seed, vocabulary), steps)):
        weights, moments, value = step(weights, moments, at, batch)
        losses.append(value)
        if (at + 1) % 100 == 0:
            recent = float(np.mean([float(v) for v in losses[-100:]]))
            seconds = time.monotonic() - began
            say(f"step {at + 1}/{steps}  loss {recent:.4f}  ppl {math.exp(recent):.3f}  {seconds:.0f} s")
    return weights, float(np.mean([float(v) for v in losses[-max(1, steps // 20) :]]))


def held_out_loss(shape: Shape, weights: Weights, vocabulary: Vocabulary, text: str) -> float:
    """Mean loss in nats over the second half of each 512-token chunk, as llama.cpp's perplexity scores it."""
    import jax

    from quanttui.models.pocket.network import logits

    ids = np.array([BOS, *vocabulary.encode(text.removesuffix("\n"))], np.int32)
    chunks = ids[: len(ids) // WINDOW * WINDOW].reshape(-1, WINDOW)

    def scored(chunk: Any) -> Any:
        seen = chunk.at[0].set(BOS)[None]
        log_p = jax.nn.log_softmax(logits(shape, weights, seen)[0])
        return -log_p[np.arange(WINDOW // 2, WINDOW - 1), chunk[WINDOW // 2 + 1 :]].mean()

    compiled = jax.jit(scored)
    return float(np.mean([float(compiled(chunk)) for chunk in chunks]))


def write(path: Path, shape: Shape, vocabulary: Vocabulary, weights: Weights) -> None:
    """The model as llama.cpp reads it: matrices F16, norms F32."""
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("quanttui pocket")
    out.add_author("quanttui")
    out.add_license("mit")
    out.add_description("A small language model of made-up village stories, trained by quanttui itself")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    out.add_context_length(N_CTX)
    out.add_embedding_length(shape.embd)
    out.add_feed_forward_length(shape.ff)
    out.add_block_count(shape.layers)
    out.add_head_count(shape.heads)
    out.add_head_count_kv(shape.kv_heads)
    out.add_rope_dimension_count(shape.head)
    out.add_rope_freq_base(shape.rope_base)
    out.add_layer_norm_rms_eps(shape.eps)
    out.add_vocab_size(shape.vocab)
    write_vocabulary(out, vocabulary)
    for name, weight in weights.items():
        out.add_tensor(name, np.asarray(weight, np.float32 if weight.ndim == 1 else np.float16))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def write_vocabulary(out: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    texts, scores, types = vocabulary.tokens()
    out.add_tokenizer_model("llama")
    out.add_tokenizer_pre("default")
    out.add_token_list(texts)
    out.add_token_scores(scores)
    out.add_token_types(types)
    out.add_unk_token_id(UNK)
    out.add_bos_token_id(BOS)
    out.add_eos_token_id(EOS)
    out.add_add_bos_token(True)
    out.add_add_eos_token(False)
    out.add_add_space_prefix(True)


def make(folder: Path, seed: int, steps: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Train and write everything into the folder; what `pocket.json` records."""
    from quanttui.models.pocket.network import Shape, uneven

    folder.mkdir(parents=True, exist_ok=True)
    model, text, matrix = folder / MODEL.name, folder / TEXT.name, folder / IMATRIX.name
    shape, began = Shape(), time.monotonic()
    vocabulary = learn(islice(stories(seed), LEARN_STORIES), shape.vocab)
    held_out = corpus(seed + HELD_OUT_SEED, HELD_OUT_CHUNKS, vocabulary)
    text.write_text(held_out, encoding="utf-8", newline="\n")
    weights, last = train(shape, vocabulary, seed, steps, say)
    weights = uneven(shape, weights, seed)
    write(model, shape, vocabulary, weights)
    loss = held_out_loss(shape, weights, vocabulary, held_out)
    imatrix.save(matrix, imatrix.compute(model, corpus(seed, IMATRIX_CHUNKS, vocabulary)), dataset=f"stories({seed})")
    first = "\n\n".join(islice(stories(seed), 100))
    record = {
        "seed": seed,
        "stories_sha256": hashlib.sha256(first.encode()).hexdigest(),
        "held_out_seed": seed + HELD_OUT_SEED,
        "steps": steps,
        "batch": BATCH,
        "window": WINDOW,
        "tokens_seen": steps * BATCH * WINDOW,
        "parameters": int(sum(w.size for w in weights.values())),
        "train_loss": round(last, 4),
        "held_out_loss": round(loss, 4),
        "held_out_perplexity": round(math.exp(loss), 4),
        "seconds": round(time.monotonic() - began),
        "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (model, text, matrix)},
    }
    (folder / RECORD.name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m quanttui.models.pocket.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--steps", type=int, default=2800)
    asked = parser.parse_args(argv)
    try:
        import jax  # noqa: F401
    except ImportError:
        print("training needs JAX: pip install 'quanttui[train]'", file=sys.stderr)
        return 2
    try:
        print(json.dumps(make(asked.out, asked.seed, asked.steps, lambda line: print(line, flush=True)), indent=2))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

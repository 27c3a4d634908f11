"""Prompts put into a context's memory, the beginning that neighbours share only once. Knows no engine and no task.

What the memory holds of a prompt is always put there in one of two ways: all of it from an empty memory, or the whole
prefix from an empty memory, its tail that the prompt does not have dropped, and the rest of the prompt behind it. Which
one it is depends on the prompt, its prefix and the prompts that are read together with it alone: so no value depends on
what was asked before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from quanttui.measure.speed import TokenArray

NONE: TokenArray = np.empty(0, dtype=np.int32)
"""No tokens."""


class Context(Protocol):
    """What a memory needs of a context, of whose sequences the one numbered 0 begins with the prefix. Any call may
    raise what its engine raises."""

    n_batch: int

    def clear(self) -> None:
        """Forget all tokens."""

    def keep(self, length: int) -> bool:
        """Forget all tokens but the first `length` of sequence 0; False where the memory cannot be what it was with
        just these."""

    def prompt(self, tokens: TokenArray, position: int) -> None:
        """Submit tokens (at most n_batch of them) at the end of sequence 0, with logits for the last."""

    def synchronize(self) -> None:
        """Wait for all that was submitted."""


class Memory:
    """A context's memory, and which prefix still lies at its beginning. Nobody else may clear it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._prefix, self._held = NONE, 0

    def put(self, prompt: TokenArray, prefix: TokenArray = NONE) -> int:
        """Have the memory hold just the prompt, with logits for its last token.

        The tokens that the prefix alone and the prompt have in common are shared. Returns how many of them were there
        before.
        """
        shared, there = self.begin([prompt], prefix)
        self._submit(prompt, shared)
        self._context.synchronize()
        return there

    def begin(self, prompts: Sequence[TokenArray], prefix: TokenArray = NONE) -> tuple[int, int]:
        """Have the memory hold just the beginning that the prefix alone and all these prompts have in common.

        At least the last token of each prompt is none of it. Returns how many tokens it has, and how many of them were
        there before.
        """
        shared = min(common(prefix, prompt[:-1]) for prompt in prompts)
        there = shared if self._has(prefix, shared) else 0
        if not there:
            self._begin(prompts[0], prefix, shared)
        self._held = shared
        return shared, there

    def _has(self, prefix: TokenArray, shared: int) -> bool:
        same = 0 < shared <= self._held and np.array_equal(prefix, self._prefix)
        self._held = self._held if same else 0
        return same and self._context.keep(shared)

    def _begin(self, prompt: TokenArray, prefix: TokenArray, shared: int) -> None:
        """Have an empty memory hold the first `shared` tokens."""
        self._held = 0
        self._context.clear()
        self._prefix = prefix
        if shared:
            self._submit(prefix, 0)
            if shared < len(prefix) and not self._context.keep(shared):
                self._context.clear()
                self._submit(prompt[:shared], 0)

    def _submit(self, tokens: TokenArray, first: int) -> None:
        for begin in range(first, len(tokens), self._context.n_batch):
            self._context.prompt(tokens[begin : begin + self._context.n_batch], begin)


def common(a: TokenArray, b: TokenArray) -> int:
    """With how many equal tokens two prompts begin."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length

"""How inputs are made: by changing valid ones, by making up structures, by a search for what reaches further."""

from __future__ import annotations

import warnings
from random import Random

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.errors import HypothesisWarning

from .guided import search
from .mutate import mutated
from .target import Target
from .workers import Tell, Way


def mutation(target: Target, count: int, seed: int, tell: Tell) -> None:
    """The valid inputs themselves first, then changes of them, each by its own number."""
    seeds = [*target.seeds()]
    for number in range(seed, seed + count):
        rng = Random(f"{target.name} mutation {number}")
        tell(
            seeds[number] if number < len(seeds) else mutated(rng, rng.choice(seeds), seeds, target.words, target.form)
        )


def made_up(target: Target, count: int, seed: int, tell: Tell) -> None:
    """What hypothesis makes of the target's structures."""

    warnings.simplefilter("ignore", HypothesisWarning)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(target.structures)
    def each(data: bytes) -> None:
        tell(data)

    each()


WAYS: dict[str, tuple[Way, float]] = {
    "mutation": (mutation, 0.6),
    "hypothesis": (made_up, 0.2),
    "guided": (search, 0.2),
}
"""Each way by its name, with its share of the cases."""

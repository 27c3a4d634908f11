"""The quants of the pocket model, made and measured through the engine, and the figures that they should give.

`python -m quanttui.doctor.pocket` records the figures anew (figures.json beside the model), for a newer llama.cpp.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from quanttui import events as e
from quanttui.doctor.check import Check, equal, near
from quanttui.engine import protocol
from quanttui.engine.process import Engine, EngineFailure
from quanttui.errors import UserError
from quanttui.format import clean
from quanttui.models import pocket, quantize, sources, store
from quanttui.probes import host
from quanttui.stats.divergence import Sums, from_sums
from quanttui.sweep import launch, plan

QUANTS = tuple(launch.DEMO_QUANTS.split(","))

BASE = QUANTS[0]
"""What KL divergence is held against."""

FIGURES = pocket.MODEL.with_name("figures.json")

PROMPT, DECODE, REPETITIONS = 512, 128, 3
"""The speed that is shown beside llama-bench's."""

TOLERANCE = 0.002
"""How far a perplexity may lie from the recorded one under another build, instruction set or backend, as a share.

Under the recorded ones nothing of it varies: 1 or 2 threads gave the same bits. Another order of the same sums moved it
by up to 0.00018 (without flash attention) and 0.00026 (ubatch 128 for 512), most where few bits are left; quantizing
with other instructions may move a few codes too. A wrong kernel or a wrong token moves it by far more than this.
"""

CACHE_BYTES = 2**30
_PATIENCE = 600.0


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded: perplexities over `chunks` chunks of the held-out text, and the build that gave them."""

    llama_cpp: str
    llama_cpp_python: str
    system_info: str
    chunks: int
    perplexity: dict[str, float]

    def same_build(self, build: e.Build) -> bool:
        """Whether the same llama.cpp computes with the same instructions, on the same backends."""
        mine = (build.llama_cpp, build.llama_cpp_python, build.system_info)
        return mine == (self.llama_cpp, self.llama_cpp_python, self.system_info)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One quant: `ppl` over all chunks; `kld` in nats and the share `same_top` against BASE, None where not asked for;
    rates in tok/s, 0 where not asked for."""

    quant: str
    file: str
    chunks: int
    ppl: float
    kld: float | None = None
    same_top: float | None = None
    prompt: float = 0.0
    decode: float = 0.0


def figures(file: Path = FIGURES) -> Figures:
    """The recorded figures.

    Raises:
        UserError: they cannot be read.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Figures)
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{file}: cannot be read ({clean(str(error))}): reinstall quanttui") from None


def settings() -> e.Settings:
    """llama-perplexity's and llama-bench's defaults on this machine."""
    return e.Settings(
        threads=host.host().cores, prompt=PROMPT, decode=DECODE, repetitions=REPETITIONS, text=str(pocket.TEXT)
    )


def compare(measured: Measured, recorded: Figures, build: e.Build) -> Check:
    """A quant's perplexity against the recorded one: four decimals under the same build, else TOLERANCE."""
    what, expected = f"perplexity {measured.quant}", recorded.perplexity.get(measured.quant, math.nan)
    if recorded.same_build(build):
        return equal(what, f"{expected:.4f}", f"{measured.ppl:.4f}", "4 decimals: the build that recorded it")
    how = f"within {TOLERANCE * 100:g} %: another build or instruction set"
    return near(what, expected, measured.ppl, TOLERANCE, how, digits=4)


def measure(folder: Path, build: e.Build, quants: Sequence[str] = QUANTS, wide: bool = False) -> Iterator[Measured]:
    """Make and measure quants one after another, each in an engine of its own.

    Args:
        folder: for the quants and all else; they lie in it afterwards.
        wide: KL divergence against BASE and speed as well; BASE must come first.

    Raises:
        UserError: a quant cannot be made or measured, with the engine's reason.
    """
    _, planned = sources.resolve((str(pocket.MODEL),), ",".join(quants))
    for arm in sorted(planned, key=lambda arm: quants.index(arm.quant)):
        try:
            file = _made(arm, folder, build)
            with Engine.start(folder / f"{arm.quant}.stderr.txt", time.monotonic_ns()) as engine:
                yield _measured(engine, arm.quant, file, folder, wide)
        except EngineFailure as failure:
            raise UserError(f"{arm.quant} of the pocket model: {clean(failure.error)}") from None


class _Once:
    """An engine for one request."""

    def __init__(self, stderr: Path) -> None:
        self._stderr = stderr

    def ask(self, request: Any) -> Iterator[Any]:
        with Engine.start(self._stderr, time.monotonic_ns()) as engine:
            yield from engine.ask(request, _PATIENCE)


def _made(arm: e.PlannedArm, folder: Path, build: e.Build) -> Path:
    if arm.file:
        return Path(arm.file)
    making = quantize.make(
        arm,
        _Once(folder / f"{arm.quant}.stderr.txt"),
        folder,
        max_bytes=CACHE_BYTES,
        threads=settings().threads,
        build=build.llama_cpp,
    )
    while True:
        try:
            next(making)
        except StopIteration as made:
            store.release(made.value)
            return Path(made.value)


def _measured(engine: Engine, quant: str, file: Path, folder: Path, wide: bool) -> Measured:
    setting = settings()
    list(engine.ask(protocol.Load(arm=quant, file=str(file), settings=setting), _PATIENCE))
    prompt, decode = (_rate(engine, quant, kind) if wide else 0.0 for kind in ("prompt", "decode"))
    text = str(pocket.TEXT)
    counted = next(
        answer
        for answer in list(engine.ask(protocol.Tokenize(arm=quant, text=text, context=setting.context), _PATIENCE))
        if isinstance(answer, protocol.Counted)
    )
    request = protocol.Score(
        units=plan.groups(setting, counted.chunks, quant),
        text=text,
        chunks=counted.chunks,
        raw=str(folder / f"{quant}.nll"),
        file=f"{quant}.nll",
        base=_base(quant, counted.chunks, folder) if wide else None,
    )
    scored = [one for one in engine.ask(request, _PATIENCE) if isinstance(one, e.Perplexity)]
    sums = _sums(scored)
    found = from_sums(sums) if sums is not None else None
    return Measured(
        quant=quant,
        file=str(file),
        chunks=len(scored),
        ppl=math.exp(math.fsum(one.nll for one in scored) / sum(one.scored for one in scored)),
        kld=found.kld.value if found is not None else None,
        same_top=found.same_top.value if found is not None else None,
        prompt=prompt,
        decode=decode,
    )


def _rate(engine: Engine, quant: str, kind: str) -> float:
    """Mean tok/s over the repetitions."""
    tokens = PROMPT if kind == "prompt" else DECODE
    rates = []
    for index in range(REPETITIONS):
        unit = e.Unit(arm=quant, kind=kind, index=index, tokens=tokens)
        answers = engine.ask(protocol.Speed(unit=unit), _PATIENCE)
        rates += [one.tokens * 1e9 / one.ns for one in answers if isinstance(one, e.UnitDone)]
    return sum(rates) / len(rates)


def _base(quant: str, chunks: int, folder: Path) -> protocol.Base:
    """BASE leaves its logits for all chunks; the others are held against them."""
    every = tuple(range(chunks))
    kept = protocol.Base(
        name=BASE, arm=BASE, logits=str(folder / "base.logits"), places=every, slots={place: place for place in every}
    )
    if quant == BASE:
        return msgspec.structs.replace(kept, write=True)
    return msgspec.structs.replace(
        kept, raw=str(folder / f"{BASE}.nll"), known=every, sums=str(folder / f"{quant}.kld"), file=f"{quant}.kld"
    )


def _sums(scored: Iterable[e.Perplexity]) -> Sums | None:
    """All chunks together against the base's rows, None where one of them was not compared."""
    total = Sums()
    for one in scored:
        if one.diverged is None:
            return None
        kept = {name: getattr(one.diverged, name) for name in Sums.__dataclass_fields__ if hasattr(one.diverged, name)}
        total += Sums(scored=one.scored, nll=one.nll, nll2=one.nll2, **kept)
    return total


def main() -> None:
    """Record the figures of this machine's build."""
    import tempfile

    build = launch.build()
    with tempfile.TemporaryDirectory() as folder:
        found = list(measure(Path(folder), build))
    recorded = Figures(
        llama_cpp=build.llama_cpp,
        llama_cpp_python=build.llama_cpp_python,
        system_info=build.system_info,
        chunks=found[0].chunks,
        perplexity={one.quant: round(one.ppl, 8) for one in found},
    )
    FIGURES.write_text(json.dumps(msgspec.to_builtins(recorded), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Faults of devices: a GPU that answers errors as NVIDIA's driver has them, for good or for a while. The driver is the
recorded one of tests/nvml.py; the sampler and its probes are real, the sweep is scripted."""

from __future__ import annotations

import random
from collections.abc import Callable

import pynvml

from quanttui import events as e
from quanttui.probes import nvidia
from quanttui.probes.process import Own
from quanttui.probes.sampler import Sampler

from ..nvml import ANSWERS, FakeNvml
from . import bench as benches
from .bench import Bench, also
from .ground import Fault, Ground, Outcome
from .judge import Recorded

ERRORS = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_UNKNOWN,
    pynvml.NVML_ERROR_TIMEOUT,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_IRQ_ISSUE,
)
"""What a driver says of a device that fell off the bus, hangs, or is being replaced. After the first five nothing more
comes of it (nvml.h)."""

FATAL = ERRORS[:5]


def lost_gpu(ground: Ground, rng: random.Random) -> Outcome:
    """A device answers with an error from some moment on, on all calls or one, and perhaps comes back."""
    whole = benches.whole(ground)
    code = rng.choice(ERRORS)
    name = rng.choice(sorted(ANSWERS))
    calls: list[str | tuple[str, int]] = [("any", 0), name, (name, 0)]
    call = rng.choice(calls)
    gone, back = sorted(rng.sample(range(2, whole.answers), 2))
    driver = FakeNvml(devices=2)
    samplers: list[Sampler] = []

    def sampler(emit: Callable[[e.Event], None]) -> Sampler:
        samplers.append(Sampler(emit, hz=20, probes=[Own(), *nvidia.probes(driver)]))
        return samplers[-1]

    def strike(_: Bench) -> None:
        if made.answers == gone:
            driver.errors[call] = code
        elif made.answers == back:
            driver.errors.clear()
        if made.answers in (gone, back):
            samplers[-1].sample_now()

    with benches.bench(ground) as made:
        made.sampler = sampler
        made.open()
        found = made.judged(Recorded(), made.run(strike), whole.qualities)
        told = _seen(made, code in FATAL and call == calls[0], code in FATAL and call == name)
        if samplers[-1].failure is not None:
            told += f"the sampler ended: {samplers[-1].failure!r}; "
        return also(found, told)


def _seen(made: Bench, fatal: bool, both: bool) -> str:
    """What is amiss with the readings: of a device that is lost there are none, and the log says why; the other's,
    unless it is lost too, and our own go on."""
    lost, told = False, 0
    for event in made.events():
        if isinstance(event, e.ProbeLost) and event.probe == "gpu0":
            lost, told = True, told + 1
        elif isinstance(event, e.ProbeFound) and event.probe == "gpu0":
            lost = False
        elif isinstance(event, e.Sample):
            names = {name.partition(".")[0] for name in event.readings}
            if "self" not in names or ("gpu1" not in names and not both):
                return f"a sample has readings of {', '.join(sorted(names))} alone; "
            if lost and "gpu0" in names:
                return "a device that is lost has readings; "
    return "the log does not say that it is lost; " if fatal and not told else ""


FAULTS = [Fault("GPU lost", "devices", 24, 4, lost_gpu, "NVML answers errors, for good or for a while")]

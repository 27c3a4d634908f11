"""All that is given bad input, by name."""

from ..target import Target
from . import files, models, network, sessions, settings, tables, tasks, words

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (sessions, models, files, settings, tables, tasks, network, words)
    for target in module.TARGETS
}

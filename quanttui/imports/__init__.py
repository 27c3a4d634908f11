"""Somebody else's runs as sessions: `quanttui import FILE…` of llama-bench's JSON and llama-perplexity's logs.

bench.py        llama-bench -o json, -o jsonl: its tests, whatever stands around them
perplexity.py   a log of llama-perplexity: running values, final estimate, KL divergence
gather.py       files into sessions: one for each machine, build, model and settings
record.py       such a session as events, and its folder

An imported session holds what its files say and nothing else: no reading of memory, pressure or power, no bandwidth,
no header of a GGUF. So it gets no verdict, and it says in its model's name and in its notes that it was imported.
"""

from quanttui.imports.found import Imported
from quanttui.imports.gather import read
from quanttui.imports.record import write

__all__ = ["Imported", "read", "write"]

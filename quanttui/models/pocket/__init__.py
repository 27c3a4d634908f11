"""The pocket model: a llama of 3.9 million weights that this project trained itself, on stories it made up itself.

It is here so that quantizing, measuring and judging can be shown and tested with no download. It knows nothing but
villages, errands and fair trades. Its columns were made uneven after training, without changing what it computes (see
`network.uneven`), so that its quants lose something, as those of large models do.

`MODEL` is its F16 GGUF, `TEXT` held-out text of the same kind that it never saw (at least 64 chunks of 512 tokens),
`IMATRIX` an importance matrix over training text, and `RECORD` the seed, steps, losses and checksums of the three.
`python -m quanttui.models.pocket.train` makes them all anew. They are plain files of the installed package.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

MODEL = _FOLDER / "pocket-f16.gguf"
TEXT = _FOLDER / "pocket-heldout.txt"
IMATRIX = _FOLDER / "pocket-imatrix.gguf"
RECORD = _FOLDER / "pocket.json"

SEED = 1
HELD_OUT_SEED = 1_000_000
"""Added to the training seed for held-out stories (not a sign: `random.Random` takes -1 for 1)."""

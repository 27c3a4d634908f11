"""quanttui against llama.cpp's own tools: the same digits, the same speed, less time. Run from the checkout's root:

    python -m tests.benchmarks                            every row, hours on a small machine
    python -m tests.benchmarks decode-live --out row.jsonl
    python -m tests.benchmarks --quick                    every row in seconds: does the harness work?

A row compares two programs that do the same work on the same model file with the same flags and, where the system
allows it, on the very same shared libraries (tools.py). They are run in turn, in rounds of ours and the tool, and back
again; in every third round the tool once more, which gives a ratio of the tool to itself: the floor below which nothing
can be told on this machine. Rounds are added until the interval of the median ratio is narrow enough, or a cap is met
(figures.py, rounds.py). A round begins on a quiet machine; a disturbed one is done again (machine.py).
"""

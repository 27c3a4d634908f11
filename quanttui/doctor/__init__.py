"""What can be relied on here: `quanttui doctor` and its flags. Measures no model of the user's; knows no screen.

host.py        what this host can tell, what it cannot, and what would mend that: `quanttui doctor`
terminal.py    the terminal's part of that: evidence for each switch, and a strip to look at
selfcheck.py   whether quanttui still computes what it should: `--self-check`, of
  check.py       one line of it: what was checked, what was expected, what was found
  arithmetic.py  the checks that need no engine: codec, fold, scorer, confidence sequence
  pocket.py      the quants of the pocket model through the engine, against the recorded figures
  reference.py   the same quants through llama-perplexity and llama-bench: `--against DIR`
observer.py    what watching costs: pairs of runs, their median, and where it is kept: `--observer`
runs.py        one such run: unwatched, headless, or with the live screen on a terminal of its own
"""

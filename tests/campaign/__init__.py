"""The fault campaign: whatever breaks under a sweep, what was measured stays and what is missing is resumed. Run from
the checkout's root:

    python -m tests.campaign                      every fault as often as it says, then the table
    python -m tests.campaign --short              the few of each that run in CI
    python -m tests.campaign "engine killed" --count 5 --seed 7 --keep DIR

A fault is done to a real sweep of the pocket model at a random moment of it: a process killed, stopped or told to end,
a terminal or a reader gone, a disk full, a clock set, a file replaced. Then the sweep goes on, or is resumed, and all
of it is held against the log as it was when the fault came and against a sweep that nothing disturbed (judge.py): what
was recorded is there and was not run again, what was missing was, and the qualities are the same bit by bit. Nothing
may be left behind, and no output may hold a traceback.

The other lab, tests/faults, asks what the verdicts say of a machine that is short of something; here only counts what
survives. Exit code 0 if every fault does, 1 if not, 2 (and one line on stderr) if nothing can be run.
"""

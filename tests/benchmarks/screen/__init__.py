"""The monitor on a terminal, held against the figures that it must reach. Run from the checkout's root:

    python -m tests.benchmarks screen                     every row, about half an hour
    python -m tests.benchmarks screen keys live           some of them
    python -m tests.benchmarks screen --quick             every row in seconds: does the harness work?

The program runs on a pseudo terminal of its own (terminal.py), as a user's shell would start it, or by way of live.py
where its own clocks are asked for: the same screen over the same sweep, whose engine answers at a real one's pace from
a script and takes no core. Long sessions are made up (recorded.py). Needs the extra `test` (pyte reads the screen).
"""

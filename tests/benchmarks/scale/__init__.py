"""A sweep of a week and more, ten million events: what it costs to write, to keep, to open and to follow.

    python -m tests.benchmarks scale                      every row, about half an hour and 5 GB of disk
    python -m tests.benchmarks scale --events 1000000     smaller
    python -m tests.benchmarks scale writer open          some of the rows

The events are made up (week.py) as a sweep at the default rates tells them, each at a moment and with figures of its
own, and go through the program's own writer, to which the time is told. What reads them are the program's own commands,
on a terminal where they need one.
"""

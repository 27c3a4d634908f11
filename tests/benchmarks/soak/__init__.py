"""Eight hours of a sweep in minutes, with three viewers that come and go: does anything grow that should not?

    python -m tests.benchmarks soak                       8 hours in 10 minutes
    python -m tests.benchmarks soak --hours 1 --minutes 2
    python -m tests.benchmarks soak --trace               and what the sweep's process has allocated meanwhile

The sweep is the real one, with a scripted engine whose clock, like the writer's and the sampler's, goes many times
faster (sweep.py); the viewers are `quanttui attach` on terminals of their own (viewers.py). Memory, descriptors and
threads of all of them are looked at all the time, and disk, temporary files and processes when it is over.
"""

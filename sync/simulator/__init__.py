"""The deterministic simulator: the engine's own acts under every fault there is, in virtual time, judged by an auditor.

    python manage.py simulate --runs 1000 --policy split --faults full

One thread and one seed decide everything, so a run that failed fails again, event by event. Workers are greenlets: the
acts block as they do in production, and while one waits for a channel the others go on. The books are kept in memory
(`sync.simulator.memory`), the stores are emulated with a truth of their own (`stores`), and what can go wrong does so as
often as the seed has drawn it (`faults`).
"""

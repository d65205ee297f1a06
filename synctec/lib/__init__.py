"""What every app may use and what knows none of them: the outside seam, keys, locks, clocks, schedules."""

"""A process of the second tier: runs what it reads from stdin on the database of its environment (`postgres.measure`)."""

from __future__ import annotations

import sys
from importlib import import_module

import django
from django.core.management import call_command

if __name__ == "__main__":
    django.setup()
    call_command("migrate", interactive=False, verbosity=0)
    sys.stdout.write(import_module("sync.simulator.postgres").answer(sys.stdin.read()))

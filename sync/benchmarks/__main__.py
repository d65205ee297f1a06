"""`python -m sync.benchmarks NAME SECONDS STORES SKUS`: run one bench, print its cases.

Started by `manage.py bench`, in the environment of its throw-away stack.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module

import django
from django.core.management import call_command


def main(name: str, seconds: str, stores: str, skus: str) -> None:
    django.setup()
    # As the web server and the workers do: doorbells must find our broker.
    import_module("synctec.celery")
    call_command("migrate", interactive=False, verbosity=0)
    bench = import_module(f"sync.benchmarks.{name}")
    cases = bench.run(seconds=float(seconds), stores=int(stores), skus=int(skus))
    sys.stdout.write(json.dumps([case.as_json() for case in cases]))


if __name__ == "__main__":
    main(*sys.argv[1:])

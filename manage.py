#!/usr/bin/env python3
"""Django's commands. Without DATABASE_URL they run against the stack started by `make run`."""

import os
import sys

from synctec.local.attach import NotRunningError, complete_environment


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "synctec.settings")
    try:
        os.environ.update(complete_environment(sys.argv[1:]))
    except NotRunningError as error:
        sys.exit(str(error))
    # After the environment is complete. Commands ring doorbells too, and they must find our broker.
    from django.core.management import execute_from_command_line

    from synctec import celery  # noqa: F401

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()

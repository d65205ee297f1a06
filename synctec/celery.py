"""The Celery application. Its messages are doorbells: see `sync.tasks`."""

import os
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_ready

from synctec import telemetry
from synctec.lib import heap

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "synctec.settings")

app = Celery("synctec")
# For all threads: made before this one by whatever asked for a task, Celery's own has neither our broker nor our settings.
app.set_default()
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
telemetry.attach()


@worker_ready.connect
@worker_process_init.connect
def _settle_heap(**_: Any) -> None:
    """All that tasks are made of has been imported: in the worker itself, and in each process that it forks."""
    heap.settle()

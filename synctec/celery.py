"""The Celery application. Its messages are doorbells: see `sync.tasks`."""

import os

from celery import Celery

from synctec import telemetry

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "synctec.settings")

app = Celery("synctec")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
telemetry.attach()

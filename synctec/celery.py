"""The Celery application. Its messages are doorbells: see `sync.tasks`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "synctec.settings")

app = Celery("synctec")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

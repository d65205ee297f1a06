"""What the web server runs: `granian --interface wsgi synctec.wsgi:application`."""

import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "synctec.settings")

application = get_wsgi_application()

# After Django is set up: doorbells rung by requests must find our broker, not Celery's default one.
from sync import watch  # noqa: E402
from sync.presence import Attendant  # noqa: E402
from synctec import celery  # noqa: E402, F401
from synctec.lib import heap  # noqa: E402

# The routes and all that they lead to, which the first request would have to load.
_ = get_resolver().url_patterns
heap.settle()

# As long as this process lives and reaches the database, deliveries are received.
Attendant("receiver").start()
watch.start()

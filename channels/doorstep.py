"""Deliveries are answered at the door, before all that a request of a browser has to go through.

Most requests are webhooks. Sessions, cookies, form tokens, messages and users mean nothing to them, nor do static files and
the route of every other page, and yet going through all that took as long as receiving the delivery itself. Its place in
`MIDDLEWARE` is behind that which sends plain http to https.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from channels.webhooks import deliver

#: As `channels.urls` has it, by which addresses are made; a test holds the two together.
_ADDRESS = re.compile(r"/webhooks/([^/]+)/([^/]+)/")

Answer = Callable[[HttpRequest], HttpResponseBase]


def doorstep(get_response: Answer) -> Answer:
    """The middleware: webhook addresses are answered, everything else goes on."""

    def answer(request: HttpRequest) -> HttpResponseBase:
        address = _ADDRESS.fullmatch(request.path_info)
        if address is None:
            return get_response(request)
        answered = deliver(request, kind=address[1], token=address[2])
        answered["Content-Length"] = str(len(answered.content))  # or it would be sent in chunks
        return answered

    return answer

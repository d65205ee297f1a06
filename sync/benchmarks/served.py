"""What `bench ingest` has the web server serve: the whole project, and beside it one DRF view that does nothing."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.urls import include, path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

# By its name, since nothing below the project's wiring may import it.
application = import_module("synctec.wsgi").application


class EmptyView(APIView):
    """The least a webhook endpoint in DRF can be: it reads the body and answers."""

    authentication_classes = []
    permission_classes = []

    def post(self, request: Request) -> Response:
        request._request.read()
        return Response({})


urlpatterns = [path("empty/", EmptyView.as_view()), path("", include("synctec.urls"))]
settings.ROOT_URLCONF = __name__

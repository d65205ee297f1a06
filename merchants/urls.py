"""Addresses of the API that belong to no other app, and what answers where there is none. Included last."""

from __future__ import annotations

from django.urls import path, re_path
from drf_spectacular.views import SpectacularJSONAPIView

from merchants import api

urlpatterns = [
    path("key", api.OwnKeyView.as_view(), name="api_key"),
    # What the API offers is no secret.
    path(
        "schema/", SpectacularJSONAPIView.as_view(authentication_classes=[], permission_classes=[]), name="api_schema"
    ),
    path("docs/", api.docs_page, name="api_docs"),
    re_path(r"^(?P<path>.*)$", api.no_such_route),
]

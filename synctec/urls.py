"""All addresses, by the app that answers them."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from merchants import views as merchants

urlpatterns = [
    # First, because most requests are webhooks.
    path("", include("channels.urls")),
    path("", include("sync.urls")),
    path("login/", merchants.sign_in, name="login"),
    path("logout/", merchants.sign_out, name="logout"),
    path("admin/", admin.site.urls),
    path("api/v1/", include("inventory.urls")),
    path("api/v1/", include("sync.api_urls")),
    # Last: it answers for every route that is none.
    path("api/v1/", include("merchants.urls")),
]

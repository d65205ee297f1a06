"""Addresses of this app: the webhooks of every channel, and connecting a Shopify store."""

from __future__ import annotations

from django.urls import path

from channels import oauth, views, webhooks

urlpatterns = [
    # Tokens of any form arrive at the view, so that a wrong one gets the same 404 as an unknown one.
    path("webhooks/<str:kind>/<str:token>/", webhooks.deliver, name="webhook"),
    path("channels/<int:channel_id>/condition/", views.condition, name="channel-condition"),
    path("channels/shopify/install/", oauth.install, name="shopify-install"),
    path("channels/shopify/callback/", oauth.callback, name="shopify-callback"),
]

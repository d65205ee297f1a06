"""Addresses of the stock API, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from inventory import api

urlpatterns = [
    path("availability", api.AvailabilityView.as_view(), name="api_availability"),
    path("holds", api.HoldsView.as_view(), name="api_holds"),
    path("holds/batch", api.HoldBatchView.as_view(), name="api_hold_batch"),
    path("holds/batch/extend", api.ExtendBatchView.as_view(), name="api_hold_batch_extend"),
    path("holds/batch/commit", api.CommitBatchView.as_view(), name="api_hold_batch_commit"),
    path("holds/batch/release", api.ReleaseBatchView.as_view(), name="api_hold_batch_release"),
    path("holds/<int:hold_id>", api.HoldView.as_view(), name="api_hold"),
    path("holds/<int:hold_id>/extend", api.ExtendView.as_view(), name="api_hold_extend"),
    path("holds/<int:hold_id>/commit", api.CommitView.as_view(), name="api_hold_commit"),
    path("holds/<int:hold_id>/release", api.ReleaseView.as_view(), name="api_hold_release"),
]

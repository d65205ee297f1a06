"""Addresses of the stock API, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from inventory import api, wms

urlpatterns = [
    path("movements", wms.MovementsView.as_view(), name="api_movements"),
    path("counts", wms.CountsView.as_view(), name="api_counts"),
    path("transfers", wms.TransfersView.as_view(), name="api_transfers"),
    path("transfers/<uuid:reference>", wms.TransferView.as_view(), name="api_transfer"),
    path("transfers/<uuid:reference>/receipts", wms.TransferReceiptsView.as_view(), name="api_transfer_receipts"),
    path(
        "transfers/<uuid:reference>/cancellation",
        wms.TransferCancellationView.as_view(),
        name="api_transfer_cancellation",
    ),
    path("changes", wms.ChangesView.as_view(), name="api_changes"),
    path("availability", api.AvailabilityView.as_view(), name="api_availability"),
    path("holds", api.HoldsView.as_view(), name="api_holds"),
    path("holds/batch", api.HoldBatchView.as_view(), name="api_hold_batch"),
    path("holds/batch/extend", api.ExtendBatchView.as_view(), name="api_hold_batch_extend"),
    path("holds/batch/commit", api.CommitBatchView.as_view(), name="api_hold_batch_commit"),
    path("holds/batch/fulfil", api.FulfilBatchView.as_view(), name="api_hold_batch_fulfil"),
    path("holds/batch/cancel", api.CancelBatchView.as_view(), name="api_hold_batch_cancel"),
    path("holds/batch/release", api.ReleaseBatchView.as_view(), name="api_hold_batch_release"),
    path("holds/<int:hold_id>", api.HoldView.as_view(), name="api_hold"),
    path("holds/<int:hold_id>/extend", api.ExtendView.as_view(), name="api_hold_extend"),
    path("holds/<int:hold_id>/commit", api.CommitView.as_view(), name="api_hold_commit"),
    path("holds/<int:hold_id>/fulfil", api.FulfilView.as_view(), name="api_hold_fulfil"),
    path("holds/<int:hold_id>/cancel", api.CancelView.as_view(), name="api_hold_cancel"),
    path("holds/<int:hold_id>/release", api.ReleaseView.as_view(), name="api_hold_release"),
]

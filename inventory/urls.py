"""Addresses of the stock API, below /api/v1/."""

from __future__ import annotations

from django.urls import path

from inventory import wms

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
]

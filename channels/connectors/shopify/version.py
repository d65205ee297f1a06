"""The one place that names the API version; read Shopify's changelog up to the new one before changing it."""

from __future__ import annotations

#: Stable since 1 October 2026, supported for twelve months.
API_VERSION = "2026-10"

#: Where the API lives under a shop's address.
GRAPHQL_PATH = f"/admin/api/{API_VERSION}/graphql.json"

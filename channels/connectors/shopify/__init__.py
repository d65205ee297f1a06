"""Shopify: the GraphQL Admin API and classic webhooks. The sandbox speaks the same."""

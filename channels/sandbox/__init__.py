"""Emulated Shopify stores over real HTTP: `python -m channels.sandbox --port 41000 --data DIR`.

One process holds any number of stores. Each behaves like the real thing under API version 2026-10 as far as
it is publicly known, has shoppers and a staff of its own, and can be made to fail. Everything answered
survives a SIGKILL. Imports neither Django nor the rest of SyncTec except `synctec.lib.signing`.

The store `north` is `north.myshopify.com`; for https://north.myshopify.com say http://host:port/north.

**As an app** (header X-Shopify-Access-Token)

    POST /{handle}/admin/api/{version}/graphql.json   what schema.graphql beside this file has
    POST /{handle}/admin/oauth/access_token           client_credentials | code (expiring=1) | refresh_token
    GET  /{handle}/admin/oauth/authorize              a page with a button; POST the same fields to skip it
    GET  /{handle}/bulk/{id}.jsonl                    the `url` of a finished bulk operation

**As a shopper or the staff** (JSON, no token). Refusals are {"error": code, "message": text} with 400
(malformed), 404 (unknown), 409 (not now) or 422 (senseless). A location is named by its name, number or
global id.

    POST /{handle}/shop/orders
         {"lines": [{"sku" | "variant_id", "quantity": 1}], "location"?, "source"?}
         201 {"id", "name", "at_us", "lines": [{"id", "sku", "variant_id", "quantity", "location_id"}]}
         409 {"error": "sold_out"}: all lines or none
    GET  /{handle}/shop/orders?limit=50               newest first
    GET  /{handle}/shop/orders/{id}
    POST /{handle}/shop/orders/{id}/cancel            {"restock": true, "reason"?}
    POST /{handle}/shop/orders/{id}/refund
         {"lines": [{"line_id", "quantity", "restock_type": cancel | return | no_restock, "location"?}], "note"?}
    POST /{handle}/shop/orders/{id}/move              {"location"}: it is to ship what is open
    POST /{handle}/shop/orders/{id}/fulfill           {"lines"?: [{"line_id", "quantity"}]}
    POST /{handle}/shop/orders/{id}/edit
         {"additions"?: [{"sku", "quantity"}], "removals"?: [{"line_id", "quantity"}], "restock"?: true}
    POST /{handle}/admin-ui/adjust                    {"sku", "location"?, "delta" | "set"}
    POST /{handle}/admin-ui/locations                 {"name"}
    POST /{handle}/admin-ui/locations/rename          {"location", "name"}
    POST /{handle}/admin-ui/locations/activate | deactivate | delete      {"location"}
    POST /{handle}/admin-ui/levels/connect | disconnect                   {"sku", "location"}
    POST /{handle}/admin-ui/products/delete           {"product": its id, or the SKU of a variant}
    POST /{handle}/admin-ui/variants/rename           {"sku", "new_sku"}
    POST /{handle}/admin-ui/uninstall                 the app is told once, then locked out

**As the one who runs it** (no access check: bind to loopback)

    GET  /_control/health                             {"ok": true, "stores": [handle, ...]}
    GET  /_control/stores                             a summary of each, without secrets
    POST /_control/stores
         {"handle", "name"?, "locations"?: ["Main"], "currency"?, "client_id"?, "client_secret"?,
          "access_token"?, "bucket"?: points or {"maximumAvailable", "restoreRate"}, and any setting}
         201 made, 200 there already (left as it is); both with the credentials
    GET | DELETE /_control/stores/{handle}            with the credentials
    PATCH /_control/stores/{handle}                   settings
    POST /_control/stores/{handle}/reset              empty again, with the same credentials
    GET | POST /_control/stores/{handle}/variants
         [{"sku", "title"?, "product"?, "barcode"?, "price"?, "tracked"?, "policy"?: DENY | CONTINUE,
           "requires_components"?, "components"?: {sku: units}, "levels"?: {location: available}}]
         an existing SKU is updated; the answer names the ids, in the same order
    GET | PUT /_control/stores/{handle}/faults        replaces all switches; what is not named is off
    PUT  /_control/faults                             the same for every store
    GET  /_control/stores/{handle}/shelf              every variant x location, and when it last changed
    GET  /_control/stores/{handle}/changes?after=N&limit=5000
         every change of every level, in order: seq, at_us (the store's clock), delta, available, committed,
         on_hand, cause (order cancel refund fulfill edit api admin), order_id, key, reference
    GET  /_control/stores/{handle}/stats              `counters` of its life; `since_start` of this process
    GET  /_control/stores/{handle}/webhooks           subscriptions, and deliveries under way
    POST /_control/stores/{handle}/compliance         {"topic", "uri", "payload"?}: one signed delivery
    POST /_control/stores/{handle}/expire_tokens      every token that can expire does, now

Switches (`faults.Faults`): latency_ms [from, to], error_rate (5xx), timeout_before_rate (not applied, no
answer), timeout_after_rate (applied, no answer), late_rate (no answer, applied late_ms [from, to] after that,
as a request that was long in the network), hang_ms (of all three, before the connection closes),
throttle_rate, webhook_lost_rate, webhook_double_rate, webhook_delay_ms [from, to], webhook_reorder_rate,
webhook_merge, order_list_lag_ms, bulk_error (a code with which bulk operations fail), bulk_partial (they fail
half-way), outage (API connections close at once, webhooks wait, shoppers go on), seed.

Settings (`store.Settings`): currency, bucket_points 2000, restore_per_second 100, replay stored | stale
(what a repeated idempotency key meets), retry_scale 1.0 (8 webhook retries over 4 hours; 0.001 makes it 14
s), drop_subscriptions, webhook_concurrency 8, bulk_seconds 0.2, bulk_url_seconds 604800 (how long the address
of a result is good), utc_offset_minutes -300, scopes.

**As a person**: `/` lists the stores, `/{handle}/` is a store's shelf, live, with Buy buttons.

Where the public record is silent the sandbox chose, and the module in question says so: what long lists
cost (throttle.py), which of several user errors comes first and what a set without effect answers
(quantities.py), that a level's webhook shows the value at the time of the change unless `webhook_merge` is
on (payloads.py), and that plain http to this machine is a good webhook address (subscriptions.py). Not
emulated: filters of subscriptions, Pub/Sub and EventBridge (accepted, never sent), XML, transfers, more
than one app.
"""

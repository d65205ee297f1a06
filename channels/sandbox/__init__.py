"""Emulated Shopify stores over real HTTP: `python -m channels.sandbox --host 127.0.0.1 --port 41000 --data DIR`.

One process holds any number of stores. Each behaves like the real thing under API version 2026-10 as far as it is
publicly known, has shoppers and a staff of its own, and can be made to fail. Everything answered survives a SIGKILL.
Imports neither Django nor the rest of SyncTec except `synctec.lib.signing`.

The store `north` is `north.myshopify.com`; where an app says https://north.myshopify.com it uses http://host:port/north.

**As an app** (header X-Shopify-Access-Token)
    POST /{handle}/admin/api/{version}/graphql.json     schema.graphql beside this file is all there is
    POST /{handle}/admin/oauth/access_token             client_credentials | code (expiring=1) | refresh_token; JSON or form
    GET  /{handle}/admin/oauth/authorize                a page with a button; POST the same fields to skip the click
    GET  /{handle}/bulk/{id}.jsonl                      the `url` of a finished bulk operation

**As a shopper or the staff** (JSON, no token; 404 unknown, 409 refused, 422 senseless; {"error": code, "message"})
    POST /{handle}/shop/orders              {"lines": [{"sku" | "variant_id", "quantity": 1}], "location"?, "source"?}
                                            201 {"id", "name", "at_us", "lines": [{"id", "sku", "quantity", "location_id"}]}
                                            409 {"error": "sold_out"}: all lines or none
    GET  /{handle}/shop/orders?limit=50     newest first;  GET /{handle}/shop/orders/{id}
    POST /{handle}/shop/orders/{id}/cancel  {"restock": true, "reason"?}
    POST .../refund                         {"lines": [{"line_id", "quantity", "restock_type": cancel|return|no_restock}], "note"?}
    POST .../fulfill                        {"lines"?: [{"line_id", "quantity"}]}
    POST .../edit                           {"additions"?: [{"sku", "quantity"}], "removals"?: [{"line_id", "quantity"}], "restock"?}
    POST /{handle}/admin-ui/adjust          {"sku", "location"?, "delta" | "set"}
    POST /{handle}/admin-ui/locations       {"name"};  .../rename {"location", "name"}
    POST /{handle}/admin-ui/locations/activate | deactivate | delete   {"location"}
    POST /{handle}/admin-ui/levels/connect | disconnect                {"sku", "location"}
    POST /{handle}/admin-ui/products/delete {"product": id or sku};  /admin-ui/variants/rename {"sku", "new_sku"}
    POST /{handle}/admin-ui/uninstall       the app: told once, then locked out
    A location may be named by its name, number or global id.

**As the one who runs it** (no access check: bind to loopback)
    GET  /_control/health                   {"ok": true, "stores": [handle...]}
    POST /_control/stores                   {"handle", "name"?, "locations"?: ["Main"], "currency"?, "client_id"?, "client_secret"?,
                                             "access_token"?, "bucket"?: points or {"maximumAvailable", "restoreRate"}, any setting}
                                            201 made, 200 there already (left as it is); both with the credentials
    GET  /_control/stores                   GET | PATCH (settings) | DELETE /_control/stores/{h};  POST .../reset
    GET | POST .../variants                 [{"sku", "title"?, "product"?, "barcode"?, "price"?, "tracked"?, "policy"?: DENY|CONTINUE,
                                              "requires_components"?, "components"?: {sku: n}, "levels"?: {location: available}}];
                                            an existing SKU is updated. The answer names variant and item ids, in order
    GET | PUT .../faults, PUT /_control/faults   replaces all switches; what is not named is off (faults.Faults):
                                            latency_ms [from, to] · error_rate (5xx) · timeout_before_rate (not applied) ·
                                            timeout_after_rate (applied, answer lost) · hang_ms (of both, before closing) ·
                                            throttle_rate · webhook_lost_rate · webhook_double_rate · webhook_delay_ms [from, to] ·
                                            webhook_reorder_rate · webhook_merge · order_list_lag_ms · outage · seed
    GET  .../shelf                          every variant x location: available, committed, on_hand, updated_us; units sold
    GET  .../changes?after=N&limit=5000     every change of every level in order: seq, at_us (the store's clock), delta, available,
                                            cause (order cancel refund fulfill edit api admin), order_id, key, reference
    GET  .../stats                          counters (life of the store) and since_start (API calls, writes, throttled, ...)
    GET  .../webhooks                       subscriptions, and deliveries under way
    POST .../compliance                     {"topic": "shop/redact", "uri", "payload"?}: one signed delivery on demand
    POST .../expire_tokens                  every token that can expire does, now

Settings (store.Settings): currency, bucket_points 2000, restore_per_second 100, replay stored|stale (what a repeated
idempotency key meets), retry_scale 1.0 (8 webhook retries over 4 hours; 0.001 makes it 14 s), drop_subscriptions,
webhook_concurrency 8, bulk_seconds 0.2, utc_offset_minutes -300, scopes.

**As a person**: `/` lists the stores, `/{handle}/` is a store's shelf, live, with Buy buttons.

Where the public record is silent the sandbox chose, and the module in question says so: costs of long lists (throttle.py),
order of user errors and sets that change nothing (quantities.py), a level's webhook showing the value at the time of the
change unless `webhook_merge` is on (payloads.py), plain http allowed for webhook addresses on loopback (subscriptions.py).
Not emulated: filters of subscriptions, Pub/Sub and EventBridge (accepted, never sent), XML, transfers, several apps.
"""

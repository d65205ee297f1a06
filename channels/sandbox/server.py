"""The HTTP side of the sandbox: routes, access, faults, and what is shown of the stores. The API is in the
package's docstring.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import re
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from channels.sandbox import oauth, pages, views
from channels.sandbox.access import is_valid_token
from channels.sandbox.bulk_runs import BulkRuns
from channels.sandbox.commands import COMMANDS
from channels.sandbox.delivery import Courier
from channels.sandbox.faults import Dice, parse_faults
from channels.sandbox.graph import Graph, Prepared, Rejected
from channels.sandbox.journal import Journal
from channels.sandbox.mall import Mall
from channels.sandbox.requests import checked, json_body, json_value, whole_number
from channels.sandbox.resolvers import API_VERSION, SUPPORTED_VERSIONS, Session
from channels.sandbox.store import Refusal, Store
from channels.sandbox.throttle import Bucket

log = logging.getLogger("sandbox")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

MAX_BODY_BYTES = 32 * 1024 * 1024
FLUSH_SECONDS = 1.0
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)
_THROTTLED = {
    "message": "Throttled",
    "extensions": {
        "code": "THROTTLED",
        "documentation": "https://shopify.dev/api/usage/rate-limits",
    },
}
_BAD_TOKEN = "[API] Invalid API key or access token (unrecognized login or wrong password)"  # noqa: S105


class HungUp(Exception):
    """The connection was closed on purpose; there is nothing to answer to."""


def json_response(value: object, *, status: int = 200) -> web.Response:
    body = _ENCODER.encode(value).encode()
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


class Sandbox:
    """One server over one data folder."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder)
        self.mall = Mall(self.journal)
        self.graph = Graph()
        self.dice: dict[str, Dice] = {}
        self.buckets: dict[str, Bucket] = {}
        self.calls: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # since this start
        self.in_flight: dict[str, set[str]] = defaultdict(set)
        self.late: set[asyncio.Task[None]] = set()  # requests that were sent and have not arrived yet
        self.courier = Courier(self.mall, self.dice_of)
        self.bulk_runs = BulkRuns(self.mall, self.graph, folder / "bulk")
        for store in self.mall.stores.values():
            self.dice_of(store.handle).set(parse_faults(store.faults))

    # --- life -----------------------------------------------------------------------------------------------

    def application(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[_answer_refusals])
        app.add_routes(self._routes())
        app.cleanup_ctx.append(self._life)
        return app

    async def _life(self, app: web.Application) -> Any:
        await self.courier.start()
        self.mall.on_change = self._after_change
        for store in self.mall.stores.values():
            self.bulk_runs.take_up(store)
        flusher = asyncio.create_task(self._flush_for_ever())
        yield
        for task in (flusher, *self.late):
            task.cancel()
        await asyncio.gather(flusher, *self.late, return_exceptions=True)
        await self.courier.close()
        self.mall.on_change = lambda store: None
        self.mall.close()

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.mall.flush()

    def _after_change(self, store: Store) -> None:
        self.courier.collect(store)
        if store.bulk_operations:
            self.bulk_runs.take_up(store)

    def _routes(self) -> list[web.RouteDef]:
        one = "/_control/stores/{handle}"
        return [
            web.post("/{handle}/admin/api/{version}/graphql.json", self.graphql),
            web.post("/{handle}/shop/orders", self._command("place_order", "lines", "location", "source")),
            web.post("/{handle}/admin/oauth/access_token", self.oauth_token),
            web.get("/{handle}/admin/oauth/authorize", self.oauth_page),
            web.post("/{handle}/admin/oauth/authorize", self.oauth_approve),
            web.get("/{handle}/bulk/{name}", self.bulk_file),
            web.get("/{handle}/shop/orders", self.order_list),
            web.get("/{handle}/shop/orders/{order_id}", self.order_detail),
            web.post("/{handle}/shop/orders/{order_id}/cancel", self._command("cancel_order", "restock", "reason")),
            web.post("/{handle}/shop/orders/{order_id}/refund", self._command("refund_order", "lines", "note")),
            web.post("/{handle}/shop/orders/{order_id}/move", self._command("move_order", "location")),
            web.post("/{handle}/shop/orders/{order_id}/fulfill", self._command("fulfill_order", "lines")),
            web.post(
                "/{handle}/shop/orders/{order_id}/edit",
                self._command("edit_order", "additions", "removals", "restock"),
            ),
            web.post("/{handle}/admin-ui/adjust", self.adjust),
            web.post("/{handle}/admin-ui/locations", self._command("add_location", "name")),
            web.post("/{handle}/admin-ui/locations/rename", self._command("rename_location", "location", "name")),
            web.post(
                "/{handle}/admin-ui/locations/{act:activate|deactivate}",
                self.switch_location,
            ),
            web.post("/{handle}/admin-ui/locations/delete", self._command("delete_location", "location")),
            web.post("/{handle}/admin-ui/levels/connect", self._command("connect_level", "sku", "location")),
            web.post("/{handle}/admin-ui/levels/disconnect", self._command("disconnect_level", "sku", "location")),
            web.post("/{handle}/admin-ui/products/delete", self._command("delete_product", "product")),
            web.post("/{handle}/admin-ui/variants/rename", self._command("rename_sku", "sku", "new_sku")),
            web.post("/{handle}/admin-ui/uninstall", self._command("uninstall")),
            web.get("/_control/health", self.health),
            web.get("/_control/stores", self.store_list),
            web.post("/_control/stores", self.store_create),
            web.put("/_control/faults", self.faults_of_all),
            web.get(one, self.store_detail),
            web.delete(one, self.store_delete),
            web.post(one + "/reset", self.store_reset),
            web.patch(one, self.store_configure),
            web.get(one + "/variants", self.variant_list),
            web.post(one + "/variants", self._command("add_variants", "variants")),
            web.get(one + "/faults", self.faults_shown),
            web.put(one + "/faults", self.faults_of_one),
            web.get(one + "/shelf", self.shelf),
            web.get(one + "/changes", self.changes),
            web.get(one + "/stats", self.stats),
            web.get(one + "/webhooks", self.webhooks),
            web.post(one + "/expire_tokens", self._command("expire_tokens")),
            web.post(one + "/compliance", self.compliance),
            web.get("/", self.index_page),
            web.get("/{handle}", self.to_shelf_page),
            web.get("/{handle}/", self.shelf_page),
            web.get("/{handle}/live", self.live),
        ]

    # --- helpers --------------------------------------------------------------------------------------------

    def dice_of(self, handle: str) -> Dice:
        found = self.dice.get(handle)
        if found is None:
            found = self.dice[handle] = Dice()
        return found

    def store_of(self, request: web.Request) -> Store:
        return self.mall.store(request.match_info["handle"])

    def bucket_of(self, store: Store) -> Bucket:
        """The store's bucket, full when the sandbox started; it follows the settings."""
        bucket = self.buckets.get(store.handle)
        settings = store.settings
        if bucket is None:
            bucket = Bucket(available=settings.bucket_points, at_us=self.mall.now_us())
            self.buckets[store.handle] = bucket
        bucket.capacity, bucket.restore_per_second = settings.bucket_points, settings.restore_per_second
        bucket.available = min(bucket.available, bucket.capacity)
        return bucket

    def _command(self, name: str, *fields: str) -> Handler:
        """A handler that passes the named fields of a JSON body to a command."""
        parameters = inspect.signature(COMMANDS[name]).parameters.values()
        required = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]

        async def handle(request: web.Request) -> web.Response:
            store = self.store_of(request)
            given = await json_value(request)
            if name == "add_variants" and isinstance(given, list):
                given = {"variants": given}
            if not isinstance(given, dict):
                raise Refusal("the body must be a JSON object", code="bad_json", status=400)
            arguments = {field: checked(field, given[field]) for field in fields if field in given}
            if "order_id" in request.match_info:
                arguments["order_id"] = store.order_numbered(request.match_info["order_id"]).id
            missing = [field for field in required if field not in arguments]
            if missing:
                raise Refusal(f"the request lacks {', '.join(missing)}", status=400)
            result = self.mall.perform(store.handle, name, arguments)
            return json_response(result, status=201 if name == "place_order" else 200)

        return handle

    def _hang_up(self, request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()
        raise HungUp

    # --- the Admin API --------------------------------------------------------------------------------------

    async def graphql(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        dice, calls = self.dice_of(store.handle), self.calls[store.handle]
        calls["api_calls"] += 1
        if dice.faults.outage:
            self._hang_up(request)
        token = request.headers.get("X-Shopify-Access-Token", "")
        if not is_valid_token(store.access, token, now_us=self.mall.now_us()):
            calls["api_unauthorized"] += 1
            return json_response({"errors": _BAD_TOKEN}, status=401)
        given = await json_body(request)
        try:
            prepared = self._prepare(given)
        except Rejected as rejected:
            return json_response(rejected.answer)
        running = self.in_flight[store.handle]
        concurrent = frozenset(prepared.keys & running)
        own_keys = prepared.keys - concurrent
        running |= own_keys
        try:
            await self._suffer_before(request, dice, calls)
        finally:
            running -= own_keys
        if self.mall.stores.get(store.handle) is not store:
            raise Refusal(f"there is no store {store.handle!r}", code="unknown_store", status=404)
        if dice.falls(dice.faults.late_rate):
            await self._be_late(request, store, prepared)
        return await self._answer(request, store, prepared, concurrent)

    async def _be_late(self, request: web.Request, store: Store, prepared: Prepared) -> None:
        """Hang up now, and work the request off when nobody expects it any more: so long it was in the network."""
        dice = self.dice_of(store.handle)
        self.calls[store.handle]["answers_late"] += 1

        async def arrive() -> None:
            await asyncio.sleep(dice.seconds_in(dice.faults.late_ms))
            if self.mall.stores.get(store.handle) is store:
                await self._answer(request, store, prepared, frozenset())

        task = asyncio.create_task(arrive())
        self.late.add(task)
        task.add_done_callback(self._forget_late)
        await asyncio.sleep(dice.faults.hang_ms / 1000)
        self._hang_up(request)

    def _forget_late(self, task: asyncio.Task[None]) -> None:
        self.late.discard(task)
        if not task.cancelled() and not isinstance(task.exception(), HungUp | None):
            log.error("a late request failed", exc_info=task.exception())

    def _prepare(self, given: Any) -> Prepared:
        query = given.get("query") if isinstance(given, dict) else None
        if not isinstance(query, str) or not query.strip():
            message = "Required parameter missing or invalid: query"
            raise Rejected([{"message": message, "extensions": {"code": "BAD_REQUEST"}}])
        variables, name = given.get("variables"), given.get("operationName")
        if variables is not None and not isinstance(variables, dict):
            message = "Parameter invalid: variables must be an object"
            raise Rejected([{"message": message, "extensions": {"code": "BAD_REQUEST"}}])
        return self.graph.prepare(query, variables, name if isinstance(name, str) and name else None)

    async def _suffer_before(self, request: web.Request, dice: Dice, calls: dict[str, int]) -> None:
        """What can go wrong before anything was applied."""
        faults = dice.faults
        latency = dice.seconds_in(faults.latency_ms)
        if latency:
            await asyncio.sleep(latency)
        if dice.falls(faults.timeout_before_rate):
            calls["answers_lost_before"] += 1
            await asyncio.sleep(faults.hang_ms / 1000)
            self._hang_up(request)
        if dice.falls(faults.error_rate):
            calls["api_errors"] += 1
            raise _ServerError(dice.generator.choice((500, 502, 503)))

    async def _answer(
        self, request: web.Request, store: Store, prepared: Prepared, concurrent: frozenset[str]
    ) -> web.Response:
        dice, calls = self.dice_of(store.handle), self.calls[store.handle]
        bucket, now_us = self.bucket_of(store), self.mall.now_us()
        cost = prepared.requested_cost
        if dice.falls(dice.faults.throttle_rate) or not bucket.take(cost, now_us=now_us):
            calls["throttled"] += 1
            bucket.refill(now_us)
            return json_response({"errors": [_THROTTLED], "extensions": _cost(cost, None, bucket)})
        if prepared.is_write:
            calls["api_writes"] += 1
        version = request.match_info["version"]
        session = Session(
            mall=self.mall,
            store=store,
            now_us=now_us,
            base_url=f"{request.scheme}://{request.host}/{store.handle}",
            api_version=version if version in SUPPORTED_VERSIONS else API_VERSION,
            list_lag_us=dice.faults.order_list_lag_ms * 1000,
            keys_in_flight=concurrent,
        )
        answer, actual = self.graph.run(session, prepared)
        if actual is None:
            bucket.give_back(cost)
        else:
            bucket.give_back(cost - actual)
            answer["extensions"] = _cost(cost, actual, bucket)
        if dice.falls(dice.faults.timeout_after_rate):
            calls["answers_lost_after"] += 1
            await asyncio.sleep(dice.faults.hang_ms / 1000)
            self._hang_up(request)
        response = json_response(answer)
        response.headers["X-Shopify-API-Version"] = session.api_version
        return response

    async def bulk_file(self, request: web.Request) -> web.StreamResponse:
        store = self.store_of(request)
        name = request.match_info["name"].removesuffix(".jsonl")
        if self.dice_of(store.handle).faults.outage:
            self._hang_up(request)
        operation = store.bulk_operations.get(int(name)) if name.isascii() and name.isdigit() else None
        until = request.query.get("until", "")
        if not until.isascii() or not until.isdigit() or int(until) < self.mall.now_us():
            raise Refusal("this address has expired", code="expired", status=403)
        path = self.bulk_runs.file_of(store.handle, operation.id) if operation is not None else None
        if path is None or not path.exists():
            raise Refusal("there is no such file", code="unknown_file", status=404)
        return web.FileResponse(path, headers={"Content-Type": "application/jsonl"})

    # --- OAuth ----------------------------------------------------------------------------------------------

    async def oauth_token(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        if self.dice_of(store.handle).faults.outage:
            self._hang_up(request)
        if request.content_type == "application/json":
            given = await json_body(request)
        else:
            given = dict(await request.post())
        return json_response(oauth.grant(self.mall, store, given))

    async def oauth_page(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        wanted = oauth.parse_request(store, request.query)
        return web.Response(text=pages.consent_page(store, wanted), content_type="text/html")

    async def oauth_approve(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        wanted = oauth.parse_request(store, await request.post())
        code = secrets.token_hex(16)
        self.mall.perform(store.handle, "issue_code", {"code": code})
        raise web.HTTPFound(oauth.callback_address(store, wanted, code, now_us=self.mall.now_us()))

    # --- shoppers and staff ---------------------------------------------------------------------------------

    async def order_list(self, request: web.Request) -> web.Response:
        limit = whole_number(request.query.get("limit"), 50)
        return json_response(views.orders(self.store_of(request), limit=min(limit, 1000)))

    async def order_detail(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        return json_response(views.order(store.order_numbered(request.match_info["order_id"])))

    async def adjust(self, request: web.Request) -> web.Response:
        store, given = self.store_of(request), await json_body(request)
        names = {"sku": "sku", "location": "location", "delta": "delta", "set": "quantity"}
        arguments = {own: checked(own, given[name]) for name, own in names.items() if name in given}
        if "sku" not in arguments:
            raise Refusal("the request lacks sku", status=400)
        return json_response(self.mall.perform(store.handle, "adjust", arguments))

    async def switch_location(self, request: web.Request) -> web.Response:
        store, given = self.store_of(request), await json_body(request)
        arguments = {
            "location": str(given.get("location")),
            "active": request.match_info["act"] == "activate",
        }
        return json_response(self.mall.perform(store.handle, "set_location_active", arguments))

    # --- control --------------------------------------------------------------------------------------------

    async def health(self, request: web.Request) -> web.Response:
        return json_response({"ok": True, "stores": list(self.mall.stores)})

    async def store_list(self, request: web.Request) -> web.Response:
        return json_response([views.summary(store) for store in self.mall.stores.values()])

    async def store_create(self, request: web.Request) -> web.Response:
        given = await json_body(request)
        made = views.make_store(self.mall, given)
        store = self.mall.store(str(given["handle"]))
        return json_response(views.with_secrets(store), status=201 if made else 200)

    async def store_detail(self, request: web.Request) -> web.Response:
        return json_response(views.with_secrets(self.store_of(request)))

    async def store_delete(self, request: web.Request) -> web.Response:
        self._remove(self.store_of(request))
        return json_response({"deleted": True})

    async def store_reset(self, request: web.Request) -> web.Response:
        """The same store, empty: same locations by name and same credentials, nothing else."""
        store = self.store_of(request)
        given = views.recipe(store)
        self._remove(store)
        views.make_store(self.mall, given)
        return json_response(views.with_secrets(self.mall.store(store.handle)))

    def _remove(self, store: Store) -> None:
        self.courier.forget(store.handle)
        self.mall.remove_store(store.handle)
        for table in (self.dice, self.buckets, self.calls, self.in_flight):
            table.pop(store.handle, None)

    async def store_configure(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        arguments = {"settings": views.settings_in(await json_body(request))}
        return json_response(self.mall.perform(store.handle, "configure", arguments))

    async def variant_list(self, request: web.Request) -> web.Response:
        return json_response(views.variants(self.store_of(request)))

    async def faults_shown(self, request: web.Request) -> web.Response:
        return json_response(views.faults(self.dice_of(self.store_of(request).handle).faults))

    async def faults_of_one(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        return json_response(self._set_faults(store, await json_body(request)))

    async def faults_of_all(self, request: web.Request) -> web.Response:
        given = await json_body(request)
        parse_faults(given)
        shown = {handle: self._set_faults(store, given) for handle, store in self.mall.stores.items()}
        return json_response(shown)

    def _set_faults(self, store: Store, given: dict[str, Any]) -> dict[str, Any]:
        faults = parse_faults(given)
        self.mall.perform(store.handle, "set_faults", {"switches": given})
        self.dice_of(store.handle).set(faults)
        return views.faults(faults)

    async def shelf(self, request: web.Request) -> web.Response:
        return json_response(views.shelf(self.store_of(request), now_us=self.mall.now_us()))

    async def changes(self, request: web.Request) -> web.Response:
        after = whole_number(request.query.get("after"), 0)
        limit = whole_number(request.query.get("limit"), 5000)
        return json_response(views.changes(self.store_of(request), after=after, limit=min(limit, 50_000)))

    async def stats(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        live = dict(self.calls[store.handle]) | self.courier.counters(store.handle)
        bucket = self.bucket_of(store)
        bucket.refill(self.mall.now_us())
        return json_response(views.stats(store, live, bucket.status()))

    async def webhooks(self, request: web.Request) -> web.Response:
        return json_response(views.webhooks(self.store_of(request)))

    async def compliance(self, request: web.Request) -> web.Response:
        store, given = self.store_of(request), await json_body(request)
        topic = str(given.get("topic", ""))
        arguments = {
            "topic": topic,
            "uri": str(given.get("uri", "")),
            "api_version": API_VERSION,
            "payload": given.get("payload"),
        }
        if not re.fullmatch(r"[a-z_/]{1,80}", topic) or not arguments["uri"]:
            raise Refusal("give topic (such as shop/redact) and uri", status=400)
        return json_response(self.mall.perform(store.handle, "send_compliance", arguments))

    # --- pages ----------------------------------------------------------------------------------------------

    async def index_page(self, request: web.Request) -> web.Response:
        return web.Response(text=pages.index_page(self.mall), content_type="text/html")

    async def to_shelf_page(self, request: web.Request) -> web.Response:
        raise web.HTTPFound(f"/{self.store_of(request).handle}/")

    async def shelf_page(self, request: web.Request) -> web.Response:
        return web.Response(text=pages.shelf_page(self.store_of(request)), content_type="text/html")

    async def live(self, request: web.Request) -> web.Response:
        store = self.store_of(request)
        live = dict(self.calls[store.handle]) | self.courier.counters(store.handle)
        faults = self.dice_of(store.handle).faults
        return json_response(views.live(store, faults, live, now_us=self.mall.now_us()))


class _ServerError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


def _cost(requested: int, actual: int | None, bucket: Bucket) -> dict[str, Any]:
    return {
        "cost": {
            "requestedQueryCost": requested,
            "actualQueryCost": actual,
            "throttleStatus": bucket.status(),
        }
    }


@web.middleware
async def _answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return json_response({"error": refusal.code, "message": str(refusal)}, status=refusal.status)
    except _ServerError as error:
        return json_response({"errors": "Internal Server Error"}, status=error.status)
    except HungUp:
        return web.Response(status=499)


def serve(*, host: str, port: int, folder: Path) -> None:
    """Run until SIGINT or SIGTERM. Raises DataError when the folder cannot be used."""
    web.run_app(
        Sandbox(folder).application(),
        host=host,
        port=port,
        access_log=None,
        print=None,
        handle_signals=True,
        shutdown_timeout=1.0,
    )

"""Sending webhooks: signed POSTs over kept connections, a few at a time per store, retried, never in a promised order."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from channels.sandbox.payloads import body_of, triggered_at
from synctec.lib.signing import sign_base64

if TYPE_CHECKING:
    from channels.sandbox.faults import Dice
    from channels.sandbox.mall import Mall
    from channels.sandbox.records import Delivery
    from channels.sandbox.store import Store

ANSWER_SECONDS = 5.0  # the whole delivery, as documented
CONNECT_SECONDS = 1.0
OUTAGE_POLL_SECONDS = 0.2
REPORT_SECONDS = 0.05  # deliveries that arrived are written down in groups
REORDER_MS = (200, 2000)
CONNECTIONS = 100


@dataclass(slots=True)
class Lane:
    """What is under way for one store."""

    store: Store
    next_seq: int = 1  # of the deliveries not yet looked at
    ready: deque[int] = field(default_factory=deque)
    active: int = 0
    arrived: list[int] = field(default_factory=list)
    timers: set[asyncio.TimerHandle] = field(default_factory=set)
    sent: int = 0  # POSTs, doubles and retries included
    doubled: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Courier:
    """Delivers what the stores announce. `collect` is called after every change of a store."""

    def __init__(self, mall: Mall, dice_of: Callable[[str], Dice]) -> None:
        self._mall = mall
        self._dice_of = dice_of
        self._lanes: dict[str, Lane] = {}
        self._session: aiohttp.ClientSession | None = None
        self._reporting: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Open the client, and take up what was not delivered when the process last ended."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept", "Accept-Encoding"),
            headers={"User-Agent": "Shopify-Captain-Hook", "Content-Type": "application/json"},
        )
        for store in self._mall.stores.values():
            lane = self._lane(store)
            for delivery in list(store.deliveries.values()):
                self._schedule(lane, delivery.seq, (delivery.due_us - self._mall.now_us()) / 1_000_000)
            lane.next_seq = store.next_delivery

    async def close(self) -> None:
        tasks: list[asyncio.Task[None]] = []
        for lane in self._lanes.values():
            tasks += lane.tasks
            self._drop(lane)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._report()
        if self._session is not None:
            await self._session.close()

    def forget(self, handle: str) -> None:
        """The store was removed."""
        lane = self._lanes.pop(handle, None)
        if lane is not None:
            self._drop(lane)

    def collect(self, store: Store) -> None:
        """Take up new deliveries of the store and throw the dice for each."""
        lane = self._lanes.get(store.handle)
        if lane is None or lane.store is not store:
            lane = self._lane(store)
        if lane.next_seq == store.next_delivery:
            return
        new, lane.next_seq = range(lane.next_seq, store.next_delivery), store.next_delivery
        dice = self._dice_of(store.handle)
        for seq in new:
            if seq in store.deliveries:
                self._take_up(lane, seq, dice)

    def counters(self, handle: str) -> dict[str, int]:
        lane = self._lanes.get(handle)
        if lane is None:
            return {}
        return {
            "webhooks_sent": lane.sent,
            "webhooks_doubled": lane.doubled,
            "webhooks_waiting": len(lane.store.deliveries) - len(lane.arrived),
        }

    def _lane(self, store: Store) -> Lane:
        lane = self._lanes[store.handle] = Lane(store)
        return lane

    def _drop(self, lane: Lane) -> None:
        for timer in lane.timers:
            timer.cancel()
        lane.timers.clear()
        lane.ready.clear()

    def _take_up(self, lane: Lane, seq: int, dice: Dice) -> None:
        faults = dice.faults
        if dice.falls(faults.webhook_lost_rate):
            self._mall.perform(lane.store.handle, "delivery_lost", {"seq": seq}, at_once=False)
            return
        wait = dice.seconds_in(faults.webhook_delay_ms)
        if dice.falls(faults.webhook_reorder_rate):
            wait += dice.seconds_in(REORDER_MS)
        self._schedule(lane, seq, wait)
        if dice.falls(faults.webhook_double_rate):
            lane.doubled += 1
            self._schedule(lane, seq, wait + dice.seconds_in((0, 500)))

    def _schedule(self, lane: Lane, seq: int, wait_seconds: float) -> None:
        if wait_seconds <= 0:
            self._ready(lane, seq)
            return
        timer: asyncio.TimerHandle

        def due() -> None:
            lane.timers.discard(timer)
            self._ready(lane, seq)

        timer = asyncio.get_running_loop().call_later(wait_seconds, due)
        lane.timers.add(timer)

    def _ready(self, lane: Lane, seq: int) -> None:
        lane.ready.append(seq)
        if lane.active < lane.store.settings.webhook_concurrency:
            lane.active += 1
            task = asyncio.get_running_loop().create_task(self._work(lane))
            lane.tasks.add(task)
            task.add_done_callback(lane.tasks.discard)

    async def _work(self, lane: Lane) -> None:
        """Send until nothing is ready. Several of these run for one store, hence no order among deliveries."""
        try:
            dice = self._dice_of(lane.store.handle)
            while lane.ready:
                if dice.faults.outage:
                    await asyncio.sleep(OUTAGE_POLL_SECONDS)
                    continue
                await self._deliver(lane, lane.ready.popleft(), dice)
        finally:
            lane.active -= 1

    async def _deliver(self, lane: Lane, seq: int, dice: Dice) -> None:
        store = lane.store
        delivery = store.deliveries.get(seq)
        if delivery is None:
            return
        body = delivery.body
        if body is None:
            body = json.dumps(
                body_of(store, delivery, merged=dice.faults.webhook_merge), separators=(",", ":")
            )
        lane.sent += 1
        if await self._post(store, delivery, body.encode()):
            lane.arrived.append(seq)
            self._report_soon()
        elif self._mall.stores.get(store.handle) is store:
            arguments = {"seq": seq, "body": body}
            outcome = self._mall.perform(store.handle, "delivery_failed", arguments, at_once=False)
            self._report_soon()
            if outcome["due_us"] is not None:
                self._schedule(lane, seq, (outcome["due_us"] - self._mall.now_us()) / 1_000_000)

    async def _post(self, store: Store, delivery: Delivery, body: bytes) -> bool:
        """One attempt. Anything but a 2xx within five seconds is a failure; redirects are not followed."""
        assert self._session is not None
        headers = {
            "X-Shopify-Topic": delivery.topic,
            "X-Shopify-Hmac-Sha256": sign_base64(body, store.access.client_secret),
            "X-Shopify-Shop-Domain": store.domain,
            "X-Shopify-API-Version": delivery.api_version,
            "X-Shopify-Webhook-Id": delivery.webhook_id,
            "X-Shopify-Event-Id": delivery.event_id,
            "X-Shopify-Triggered-At": triggered_at(delivery.triggered_us),
        }
        subscription = store.subscriptions.get(delivery.subscription_id)
        if subscription is not None and subscription.name:
            headers["X-Shopify-Name"] = subscription.name
        try:
            async with self._session.post(
                delivery.uri, data=body, headers=headers, allow_redirects=False
            ) as response:
                await response.read()
                return 200 <= response.status < 300
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return False

    def _report_soon(self) -> None:
        if self._reporting is None:
            self._reporting = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)

    def _report(self) -> None:
        """Write down what arrived. What a kill makes us forget is only delivered twice."""
        self._reporting = None
        for handle, lane in self._lanes.items():
            if lane.arrived and self._mall.stores.get(handle) is lane.store:
                arrived, lane.arrived = lane.arrived, []
                self._mall.perform(handle, "deliveries_done", {"seqs": arrived}, at_once=False)
        self._mall.flush()

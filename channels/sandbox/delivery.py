"""Sending webhooks: signed POSTs over kept connections, a few at a time per store, retried, never in a
promised order.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import aiohttp

from channels.sandbox.payloads import body_of, triggered_at
from channels.sandbox.poster import Poster, PostError, target_of
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
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


@dataclass(slots=True)
class Parcel:
    """One delivery to make. A double has the body of the parcel it doubles, and is not repeated when it
    fails.
    """

    delivery: Delivery
    doubles: Parcel | None = None
    body: bytes | None = None


@dataclass(slots=True)
class Lane:
    """What is under way for one store."""

    store: Store
    next_seq: int = 1  # of the deliveries not yet looked at
    ready: deque[Parcel] = field(default_factory=deque)
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
        self._poster = Poster(connect_seconds=CONNECT_SECONDS, answer_seconds=ANSWER_SECONDS)
        self._session: aiohttp.ClientSession | None = None  # for https
        self._reporting: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Take up what was not delivered when the process last ended."""
        for store in self._mall.stores.values():
            lane = self._lane(store)
            for delivery in list(store.deliveries.values()):
                self._schedule(lane, Parcel(delivery), self._seconds_until(delivery.due_us))
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
        self._poster.close()
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
            delivery = store.deliveries.get(seq)
            if delivery is not None:
                self._take_up(lane, delivery, dice)

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

    def _seconds_until(self, due_us: int) -> float:
        return (due_us - self._mall.now_us()) / 1_000_000

    def _take_up(self, lane: Lane, delivery: Delivery, dice: Dice) -> None:
        faults = dice.faults
        if dice.falls(faults.webhook_lost_rate):
            self._mall.perform(lane.store.handle, "delivery_lost", {"seq": delivery.seq}, at_once=False)
            return
        wait = dice.seconds_in(faults.webhook_delay_ms)
        if dice.falls(faults.webhook_reorder_rate):
            wait += dice.seconds_in(REORDER_MS)
        parcel = Parcel(delivery)
        self._schedule(lane, parcel, wait)
        if dice.falls(faults.webhook_double_rate):
            lane.doubled += 1
            self._schedule(lane, Parcel(delivery, doubles=parcel), wait + dice.seconds_in((0, 500)))

    def _schedule(self, lane: Lane, parcel: Parcel, wait_seconds: float) -> None:
        if wait_seconds <= 0:
            self._ready(lane, parcel)
            return
        timer: asyncio.TimerHandle

        def due() -> None:
            lane.timers.discard(timer)
            self._ready(lane, parcel)

        timer = asyncio.get_running_loop().call_later(wait_seconds, due)
        lane.timers.add(timer)

    def _ready(self, lane: Lane, parcel: Parcel) -> None:
        lane.ready.append(parcel)
        if lane.active < lane.store.settings.webhook_concurrency:
            lane.active += 1
            task = asyncio.get_running_loop().create_task(self._work(lane))
            lane.tasks.add(task)
            task.add_done_callback(lane.tasks.discard)

    async def _work(self, lane: Lane) -> None:
        """Send until nothing is ready. Several of these run for one store, so nothing keeps an order."""
        try:
            dice = self._dice_of(lane.store.handle)
            while lane.ready:
                if dice.faults.outage:
                    await asyncio.sleep(OUTAGE_POLL_SECONDS)
                    continue
                await self._deliver(lane, lane.ready.popleft(), dice)
        finally:
            lane.active -= 1

    async def _deliver(self, lane: Lane, parcel: Parcel, dice: Dice) -> None:
        store, delivery = lane.store, parcel.delivery
        if parcel.doubles is None and delivery.seq not in store.deliveries:
            return
        if parcel.doubles is not None:
            parcel.body = parcel.doubles.body
        if parcel.body is None:
            parcel.body = self._body(store, delivery, dice)
        lane.sent += 1
        arrived = await self._post(store, delivery, parcel.body)
        if parcel.doubles is not None or self._mall.stores.get(store.handle) is not store:
            return
        if arrived:
            lane.arrived.append(delivery.seq)
        else:
            arguments = {"seq": delivery.seq, "body": parcel.body.decode()}
            outcome = self._mall.perform(store.handle, "delivery_failed", arguments, at_once=False)
            if outcome["due_us"] is not None:
                self._schedule(lane, parcel, self._seconds_until(outcome["due_us"]))
        self._report_soon()

    def _body(self, store: Store, delivery: Delivery, dice: Dice) -> bytes:
        if delivery.body is not None:
            return delivery.body.encode()
        body = body_of(store, delivery, merged=dice.faults.webhook_merge)
        return _ENCODER.encode(body).encode()

    async def _post(self, store: Store, delivery: Delivery, body: bytes) -> bool:
        """One attempt. Anything but a 2xx within five seconds is a failure; redirects are not followed."""
        headers = self._headers(store, delivery, body)
        try:
            if delivery.uri.startswith("https:"):
                return await self._post_encrypted(delivery.uri, headers, body)
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            return 200 <= await self._poster.post(target_of(delivery.uri), lines, body) < 300
        except (PostError, aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return False

    def _headers(self, store: Store, delivery: Delivery, body: bytes) -> dict[str, str]:
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
        return headers

    async def _post_encrypted(self, uri: str, headers: dict[str, str], body: bytes) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "Shopify-Captain-Hook", "Content-Type": "application/json"},
            )
        async with self._session.post(uri, data=body, headers=headers, allow_redirects=False) as response:
            await response.read()
            return 200 <= response.status < 300

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

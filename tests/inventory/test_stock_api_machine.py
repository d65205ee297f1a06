"""Any sequence of requests to the API of holds and movements, against a model (`tests.inventory.stock_model`).

Requests are repeated, in other words too; answers are lost after the COMMIT; Redis is emptied; time passes. After each
step the stock is the model's, and the ledger adds up to it, without a gap.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from inventory import holds, stock
from inventory.models import BomLine, Movement, Sku, SkuKind, StockLevel, Strategy, Warehouse
from sync.invariants import violations
from synctec.lib import clock
from tests.factories import NOON, Trade, make_trade
from tests.inventory.conftest import Program
from tests.inventory.stock_model import PARTS, STOCKED, WAREHOUSES, Hold, Model, Shelf, Transfer
from tests.lost_commits import lost_commit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.hypothesis, pytest.mark.slow]

_numbers = itertools.count()

OPENING = {"MUG": 8, "TEE": 5}
PER_LINE, ALL_OR_NOTHING = "per_line", "all_or_nothing"
ACTS = ("extend", "commit", "fulfil", "cancel", "release")
NOBODYS = 10**9

codes, stocked, warehouses = st.sampled_from(sorted(PARTS)), st.sampled_from(STOCKED), st.sampled_from(WAREHOUSES)
modes = st.sampled_from([PER_LINE, ALL_OR_NOTHING])
minutes = st.integers(1, 15)
#: An answer is lost now and then.
losses = st.sampled_from([False, False, True])
wishes = st.lists(
    st.tuples(st.sampled_from([*sorted(PARTS), "NONE"]), warehouses, st.integers(1, 5)), min_size=1, max_size=3
)
reports = st.lists(
    st.tuples(
        st.sampled_from(["receipt", "adjustment", "damage", "return", "nonsense"]),
        stocked,
        warehouses,
        st.integers(1, 6),
        st.booleans(),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=3,
)
takes = st.lists(st.tuples(stocked, warehouses, st.integers(0, 12), st.integers(0, 20)), min_size=1, max_size=2)


@dataclass(frozen=True)
class Sent:
    """A request that was carried out, and its answer."""

    path: str
    body: dict[str, Any]
    key: str
    answer: Any


class Machine(RuleBasedStateMachine):
    """Sends requests, and compares each answer and what came of it with the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.valkey = redis.Redis.from_url(settings.REDIS_URL)
        self.trade = make_merchant()
        self.program = Program(self.trade.merchant)
        shelves = {(code, warehouse): Shelf() for code in STOCKED for warehouse in WAREHOUSES}
        for (code, _), shelf in shelves.items():
            shelf.changes.append((NOON, OPENING[code]))
        self.model = Model(NOON, shelves)
        self.sent: list[Sent] = []
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(clock, "now", lambda: self.model.now)
        #: What is in Redis may be of a moment ago: nobody was there to write it through, or the gate counts what it let
        #: through to nothing.
        self.redis_may_lag = False

    def teardown(self) -> None:
        self.patch.undo()
        self.valkey.close()

    def post(self, path: str, body: dict[str, Any], *, is_lost: bool = False) -> Any:
        """Send a request; if its answer is lost after the COMMIT, send it again, as a client would."""
        key = f"{next(_numbers)}"
        if is_lost:
            with lost_commit() as loss:
                answer = self.program.post(path, body, once=key)
            if not loss.has_happened:
                return self.noted(Sent(path, body, key, answer))
            assert answer.status_code == 503
            self.redis_may_lag = True
            answer = self.program.post(path, body, once=key)
            # A refusal may have come with a COMMIT, of what had expired; it is not remembered.
            assert answer.status_code >= 400 or answer["Idempotency-Replayed"] == "true"
            return self.noted(Sent(path, body, key, answer))
        return self.noted(Sent(path, body, key, self.program.post(path, body, once=key)))

    def noted(self, sent: Sent) -> Any:
        """What was refused left nothing behind, so it may be sent again and is another request."""
        if sent.answer.status_code < 400:
            self.sent.append(sent)
        return sent.answer

    def minutes_ago(self, minutes: int) -> datetime:
        return self.model.now - timedelta(minutes=minutes)

    @initialize()
    def begin_with_holds(self) -> None:
        for warehouse in WAREHOUSES:
            self.hold("SET", warehouse, 2, minutes=5, is_lost=False)

    # --- holds --------------------------------------------------------------------------------------------------

    @rule(code=codes, warehouse=warehouses, quantity=st.integers(1, 6), minutes=minutes, is_lost=losses)
    def hold(self, code: str, warehouse: str, quantity: int, minutes: int, is_lost: bool) -> None:
        body = self.wish(code, warehouse, quantity, minutes)
        is_free = self.model.free(code, warehouse) >= quantity
        answer = self.post("holds", body, is_lost=is_lost)
        if is_free and answer.status_code == 409 and self.redis_may_lag:
            self.flush()
            answer = self.post("holds", body)
        assert answer.status_code == (201 if is_free else 409)
        self.notice()
        if is_free:
            self.keep(answer.json())
        else:
            assert answer.json()["type"].endswith("unavailable")

    @rule(lines=wishes, minutes=minutes, mode=modes, is_lost=losses)
    def hold_many(self, lines: list[tuple[str, str, int]], minutes: int, mode: str, is_lost: bool) -> None:
        if self.redis_may_lag:
            self.flush()
        left = {(code, place): self.model.free(code, place) for code in STOCKED for place in WAREHOUSES}
        expected = []
        for code, warehouse, quantity in lines:
            if code not in PARTS:
                expected.append("unknown-sku")
            elif any(left[part, warehouse] < units * quantity for part, units in PARTS[code].items()):
                expected.append("unavailable")
            else:
                expected.append("")
                for part, units in PARTS[code].items():
                    left[part, warehouse] -= units * quantity
        body = {"mode": mode, "holds": [self.wish(*line, minutes) for line in lines]}
        answer = self.post("holds/batch", body, is_lost=is_lost)
        self.notice()
        for result in self.agreed(answer, expected, mode):
            self.keep(result["hold"])
        # A gate that lets through what is not decided in the end counts it for a second.
        self.redis_may_lag = self.redis_may_lag or any(expected)

    @precondition(lambda self: self.model.holds)
    @rule(
        data=st.data(),
        act=st.sampled_from(ACTS),
        minutes=minutes,
        minutes_ago=st.integers(0, 20),
        mode=modes,
        is_lost=losses,
    )
    def act_on_many(
        self, data: st.DataObject, act: str, minutes: int, minutes_ago: int, mode: str, is_lost: bool
    ) -> None:
        ids = st.sampled_from([*sorted(self.model.holds), NOBODYS])
        chosen = data.draw(st.lists(ids, min_size=1, max_size=3, unique=True))
        at, after = self.minutes_ago(minutes_ago), copy.deepcopy(self.model)
        expected = [after.act(act, hold_id, lifetime=timedelta(minutes=minutes), at=at) for hold_id in chosen]
        more, of_line = self.words(act, minutes, at)
        lines = [{"id": hold_id, **of_line} for hold_id in chosen] if act in ("commit", "fulfil") else chosen
        answer = self.post(f"holds/batch/{act}", {"mode": mode, "holds": lines, **more}, is_lost=is_lost)
        self.agreed(answer, expected, mode)
        if mode == PER_LINE or not any(expected):
            self.model = after

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), act=st.sampled_from(ACTS), minutes=minutes, minutes_ago=st.integers(0, 20), is_lost=losses)
    def act_on_one(self, data: st.DataObject, act: str, minutes: int, minutes_ago: int, is_lost: bool) -> None:
        hold_id = data.draw(st.sampled_from([*sorted(self.model.holds), NOBODYS]))
        self.act(act, hold_id, minutes=minutes, at=self.minutes_ago(minutes_ago), is_lost=is_lost)

    @precondition(lambda self: self.undecided())
    @rule(data=st.data(), act=st.sampled_from(["commit", "extend", "release"]), is_gone=st.booleans(), is_lost=losses)
    def act_too_late(self, data: st.DataObject, act: str, is_gone: bool, is_lost: bool) -> None:
        """On a hold that has expired, as shoppers do who thought it over, while others perhaps took all there was."""
        hold_id = data.draw(st.sampled_from(self.undecided()))
        hold = self.model.holds[hold_id]
        self.model.now = max(self.model.now, hold.until)
        left = self.model.free(hold.code, hold.warehouse)
        if is_gone and left > 0:
            self.hold(hold.code, hold.warehouse, left, minutes=30, is_lost=False)
        self.act(act, hold_id, minutes=5, at=self.model.now, is_lost=is_lost)

    def undecided(self) -> list[int]:
        """Holds that are active, or were until their time was up."""
        holds = self.model.holds.items()
        return [hold_id for hold_id, hold in holds if hold.state == "active" or hold.has_timed_out]

    def act(self, act: str, hold_id: int, *, minutes: int, at: datetime, is_lost: bool) -> None:
        reason = self.model.act(act, hold_id, lifetime=timedelta(minutes=minutes), at=at)
        more, of_line = self.words(act, minutes, at)
        answer = self.post(f"holds/{hold_id}/{act}", more | of_line, is_lost=is_lost)
        assert (answer.status_code == 200) == (not reason)
        if reason:
            assert answer.json()["type"].endswith(reason)

    def words(self, act: str, minutes: int, at: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a request says of an act as a whole, and of each hold."""
        more = {"expires_in": minutes * 60} if act == "extend" else {}
        return more, {"effective_at": at.isoformat()} if act == "fulfil" else {}

    # --- movements ----------------------------------------------------------------------------------------------

    @rule(lines=reports, mode=modes, is_lost=losses)
    def report(self, lines: list[tuple[str, str, str, int, bool, int]], mode: str, is_lost: bool) -> None:
        said, moved = [], []
        for kind, code, warehouse, quantity, is_less, minutes_ago in lines:
            units = -quantity if kind == "damage" or (kind == "adjustment" and is_less) else quantity
            at = self.minutes_ago(minutes_ago)
            line = {
                "key": f"m{next(_numbers)}",
                "type": kind,
                "sku": code,
                "warehouse": warehouse,
                "reason": "so it is",
            }
            line |= {"effective_at": at.isoformat()} if minutes_ago else {}
            said.append(line | {"quantity": abs(units) if kind == "damage" else units})
            moved.append(((code, warehouse), (at, units)))
        is_good = [kind != "nonsense" for kind, *_ in lines]
        answer = self.post("movements", {"mode": mode, "lines": said}, is_lost=is_lost)
        if self.booked(answer, is_good, mode):
            for (shelf, change), is_fine in zip(moved, is_good, strict=True):
                if is_fine:
                    self.model.shelves[shelf].changes.append(change)
            self.tells_on_hand(answer, [shelf for shelf, _ in moved])

    @rule(lines=takes, mode=modes, is_bad=st.booleans(), is_lost=losses)
    def count(self, lines: list[tuple[str, str, int, int]], mode: str, is_bad: bool, is_lost: bool) -> None:
        said = [
            {
                "key": f"c{next(_numbers):09}",
                "sku": code,
                "warehouse": warehouse,
                "quantity": quantity,
                "counted_at": self.minutes_ago(minutes_ago).isoformat(),
            }
            for code, warehouse, quantity, minutes_ago in lines
        ]
        bad = [{**said[0], "key": "bad", "sku": "NONE"}] if is_bad else []
        is_good = [*[True] * len(said), *[False] * len(bad)]
        answer = self.post("counts", {"mode": mode, "lines": said + bad}, is_lost=is_lost)
        if self.booked(answer, is_good, mode):
            for (code, warehouse, quantity, minutes_ago), line in zip(lines, said, strict=True):
                taken = (self.minutes_ago(minutes_ago), str(line["key"]), quantity)
                self.model.shelves[code, warehouse].counts.append(taken)
            self.tells_on_hand(answer, [(code, warehouse) for code, warehouse, *_ in lines])

    @rule(code=stocked, origin=warehouses, quantity=st.integers(1, 5), is_lost=losses)
    def send(self, code: str, origin: str, quantity: int, is_lost: bool) -> None:
        transfer = Transfer(code, origin, quantity)
        body = {
            "origin": origin,
            "destination": transfer.destination,
            "lines": [{"sku": code, "quantity": quantity}],
            "reference": "lorry",
        }
        is_there = self.model.shelves[code, origin].available >= quantity
        answer = self.post("transfers", body, is_lost=is_lost)
        assert answer.status_code == (201 if is_there else 422)
        if is_there:
            self.model.send(answer.json()["id"], transfer)

    @precondition(lambda self: self.model.transfers)
    @rule(data=st.data(), units=st.none() | st.integers(1, 5), is_lost=losses)
    def receive(self, data: st.DataObject, units: int | None, is_lost: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.transfers)))
        transfer = self.model.transfers[name]
        body = {"lines": [{"sku": transfer.code, "quantity": units}]} if units else {}
        arriving = units or transfer.in_transit
        answer = self.post(f"transfers/{name}/receipts", body, is_lost=is_lost)
        is_fine = 0 < arriving <= transfer.in_transit
        assert answer.status_code == (200 if is_fine else 422)
        if is_fine:
            self.model.receive(transfer, arriving)
            assert answer.json()["state"] == transfer.state

    @precondition(lambda self: self.model.transfers)
    @rule(data=st.data(), is_lost=losses)
    def take_back(self, data: st.DataObject, is_lost: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.transfers)))
        transfer = self.model.transfers[name]
        answer = self.post(f"transfers/{name}/cancellation", {"reason": "lorry broke down"}, is_lost=is_lost)
        assert answer.status_code == (422 if transfer.state == "received" else 200)
        if transfer.state == "in_transit":
            self.model.take_back(transfer)

    # --- again --------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """The same key and body: the same answer, and nothing is done."""
        earlier = data.draw(st.sampled_from(self.sent))
        again = self.program.post(earlier.path, earlier.body, once=earlier.key)
        assert (again.status_code, again["Idempotency-Replayed"]) == (earlier.answer.status_code, "true")
        if earlier.path == "holds":
            # It is shown as it was a moment ago; what has expired is noticed by whoever asks for such goods.
            assert again.json()["id"] == earlier.answer.json()["id"]
            assert again.json()["state"] == self.model.holds[again.json()["id"]].state
            self.notice()
            self.redis_may_lag = True
        else:
            assert again.content == earlier.answer.content

    @precondition(lambda self: self.others())
    @rule(data=st.data())
    def reuse_a_key(self, data: st.DataObject) -> None:
        """The same key and another body: refused, and nothing is done."""
        earlier, other = data.draw(st.sampled_from(self.others()))
        refused = self.program.post(earlier.path, other, once=earlier.key)
        assert refused.status_code == 422
        assert refused.json()["type"].endswith("idempotency-key-reused")
        self.notice()
        self.redis_may_lag = True

    def others(self) -> list[tuple[Sent, dict[str, Any]]]:
        """Earlier requests, and each in other words."""
        flipped = {PER_LINE: ALL_OR_NOTHING, ALL_OR_NOTHING: PER_LINE}
        other_modes = [
            (sent, sent.body | {"mode": flipped[sent.body["mode"]]}) for sent in self.sent if "mode" in sent.body
        ]
        return other_modes + [
            (sent, sent.body | {"reference": "another"}) for sent in self.sent if "reference" in sent.body
        ]

    @precondition(lambda self: self.lines_sent())
    @rule(data=st.data(), mode=modes)
    def report_again(self, data: st.DataObject, mode: str) -> None:
        """A line that was booked is a duplicate in whatever request it comes."""
        sent, booked = data.draw(st.sampled_from(self.lines_sent()))
        answer = self.program.post(sent.path, {"mode": mode, "lines": booked})
        assert [result["status"] for result in answer.json()["results"]] == ["duplicate"] * len(booked)

    def lines_sent(self) -> list[tuple[Sent, list[dict[str, Any]]]]:
        """Requests that booked lines of their own keys, and those lines."""
        batches = [(sent, sent.answer.json()["results"]) for sent in self.sent if sent.path in ("movements", "counts")]
        booked = [
            (
                sent,
                [line for line, said in zip(sent.body["lines"], results, strict=True) if said["status"] != "refused"],
            )
            for sent, results in batches
        ]
        return [(sent, lines) for sent, lines in booked if lines]

    # --- what happens by itself ---------------------------------------------------------------------------------

    @rule(minutes=st.integers(1, 20))
    def wait(self, minutes: int) -> None:
        self.model.now += timedelta(minutes=minutes)

    @rule()
    def sweep(self) -> None:
        holds.sweep(now=self.model.now)
        for hold_id in self.model.late():
            self.model.release(hold_id)

    @rule()
    def flush(self) -> None:
        self.valkey.flushall()
        self.redis_may_lag = False

    @rule(code=codes, strategy=st.sampled_from(Strategy.values))
    def choose(self, code: str, strategy: str) -> None:
        Sku.objects.filter(merchant=self.trade.merchant, code=code).update(strategy=strategy)

    # --- agreement ----------------------------------------------------------------------------------------------

    @invariant()
    def stock_is_the_models(self) -> None:
        stored = {
            (code, warehouse): (on_hand, committed, held, available)
            for code, warehouse, on_hand, committed, held, available in StockLevel.objects.filter(
                merchant=self.trade.merchant
            ).values_list("sku__code", "warehouse__code", "on_hand", "committed", "held", "available")
        }
        expected = {
            key: (shelf.on_hand, shelf.committed, shelf.held, shelf.available)
            for key, shelf in self.model.shelves.items()
        }
        assert {key: stored.get(key, (0, 0, 0, 0)) for key in expected} == expected

    @invariant()
    def ledger_adds_up(self) -> None:
        """Movements are numbered without a gap, each balance follows from the one before, and the last is the stock's."""
        balances: dict[int, dict[str, int]] = defaultdict(lambda: {"on_hand": 0, "committed": 0, "held": 0})
        numbers: dict[int, int] = defaultdict(int)
        for movement in Movement.objects.filter(merchant=self.trade.merchant).order_by("stock_level", "seq"):
            level = movement.stock_level_id
            numbers[level] += 1
            balances[level][movement.account] += movement.delta
            assert (movement.seq, movement.balance_after) == (numbers[level], balances[level][movement.account])
        for stored in StockLevel.objects.filter(merchant=self.trade.merchant):
            assert stored.seq == numbers[stored.pk]
            told = {"on_hand": stored.on_hand, "committed": stored.committed, "held": stored.held}
            assert told == balances[stored.pk]

    @rule()
    def ask_what_is_available(self) -> None:
        if self.redis_may_lag:
            self.flush()
        answer = self.program.get("availability", sku=list(STOCKED)).json()
        told = {
            (sku["sku"], shelf["warehouse"]): shelf["available"]
            for sku in answer["skus"]
            for shelf in sku["warehouses"]
        }
        for key, shelf in self.model.shelves.items():
            assert told.get(key, 0) == shelf.available

    def notice(self) -> None:
        """Which expired holds were noticed by a decision is the code's affair; what it says of them counts."""
        stored = holds.find(self.model.late(), merchant_id=self.trade.merchant.pk)
        for hold_id, held in stored.items():
            if held.state == "released":
                self.model.release(hold_id)

    def wish(self, code: str, warehouse: str, quantity: int, minutes: int) -> dict[str, Any]:
        return {
            "sku": code,
            "quantity": quantity,
            "warehouses": [warehouse],
            "expires_in": minutes * 60,
            "reference": "cart",
        }

    def keep(self, said: dict[str, Any]) -> None:
        [warehouse] = {part["warehouse"] for part in said["parts"]}
        until = datetime.fromisoformat(said["expires_at"])
        self.model.hold(said["id"], Hold(said["sku"], warehouse, said["quantity"], until))

    def agreed(self, answer: Any, expected: list[str], mode: str) -> list[dict[str, Any]]:
        """The results of lines that were done, after all have been compared."""
        results: list[dict[str, Any]] = answer.json()["results"]
        reasons = [result.get("reason", "") for result in results]
        if mode == PER_LINE or not any(expected):
            assert (answer.status_code, reasons) == (200, expected)
            return [result for result in results if result["status"] == "done"]
        assert answer.status_code == 409
        # The gate refuses a batch before anybody looks at what else is wrong with it.
        assert all(said in (true, "another-was-refused") for said, true in zip(reasons, expected, strict=True))
        assert set(reasons) != {"another-was-refused"}
        return []

    def booked(self, answer: Any, is_good: list[bool], mode: str) -> bool:
        """Whether the good lines were booked, after all have been compared."""
        is_refused = mode == ALL_OR_NOTHING and not all(is_good)
        assert answer.status_code == (422 if is_refused else 200)
        statuses = [result["status"] for result in answer.json()["results"]]
        for status, is_fine in zip(statuses, is_good, strict=True):
            wanted = {"not_applied"} if is_refused else {"applied", "superseded"}
            assert status in (wanted if is_fine else {"refused"})
        return not is_refused

    def tells_on_hand(self, answer: Any, shelves: list[tuple[str, str]]) -> None:
        for result, shelf in zip(answer.json()["results"], shelves, strict=False):
            assert result["status"] == "refused" or result["on_hand"] == self.model.shelves[shelf].on_hand


def make_merchant() -> Trade:
    """A merchant of its own for every run: what is committed stays, in PostgreSQL and in Redis."""
    trade = make_trade(f"A{next(_numbers)}", stock_of=OPENING, shops=())
    second = Warehouse.objects.create(merchant=trade.merchant, code="SECOND", name="Second")
    quantities = {(trade.skus[code].pk, second.pk): units for code, units in OPENING.items()}
    stock.open_stock(merchant_id=trade.merchant.pk, quantities=quantities, now=NOON)
    bundle = Sku.objects.create(merchant=trade.merchant, code="SET", kind=SkuKind.BUNDLE)
    for part, quantity in PARTS["SET"].items():
        BomLine.objects.create(merchant=trade.merchant, bundle=bundle, component=trade.skus[part], quantity=quantity)
    return trade


def test_any_sequence_of_requests_agrees_with_the_model() -> None:
    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            # Each step is a request or two to a real PostgreSQL.
            max_examples=hypothesis_settings().max_examples // 40,
            stateful_step_count=50,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert list(violations(when_quiet=False)) == []

"""The API of headless shops and tills: what is available, and holds on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Final

from django.http import Http404, HttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from inventory import availability, holding, holds, recipes
from inventory.allotment import most
from inventory.availability import Reading
from inventory.holds import Answer, Held, Refusal
from inventory.models import Hold, HoldState
from inventory.recipes import Recipe
from merchants.api import (
    ApiView,
    Moment,
    PageQuery,
    Problem,
    StrictBoolean,
    StrictInteger,
    StrictSerializer,
    StrictText,
    decode_cursor,
    encode_cursor,
    idempotency_key,
    read,
    read_query,
)
from merchants.models import Scope
from synctec.lib import clock

SKUS_MAX: Final = 100
QUANTITY_MAX: Final = 1_000_000
ALL_OR_NOTHING, PER_LINE = "all_or_nothing", "per_line"

_STATUS: Final = {
    Refusal.UNKNOWN_HOLD: 404,
    Refusal.UNKNOWN_SKU: 422,
    Refusal.UNKNOWN_WAREHOUSE: 422,
    Refusal.UNKNOWN_CHANNEL: 422,
    Refusal.NO_ORDER_ID: 422,
    Refusal.IN_THE_FUTURE: 422,
    Refusal.KEY_REUSED: 422,
}
#: Which field is to blame.
_FIELD: Final = {
    Refusal.UNKNOWN_SKU: "sku",
    Refusal.UNKNOWN_WAREHOUSE: "warehouses",
    Refusal.UNKNOWN_CHANNEL: "order.channel",
    Refusal.NO_ORDER_ID: "order.id",
    Refusal.IN_THE_FUTURE: "effective_at",
}
_WORDS: Final = {
    Refusal.UNAVAILABLE: "Not so many are available. Ask for what `available` says, or for less.",
    Refusal.UNKNOWN_SKU: "The merchant has no such SKU.",
    Refusal.UNKNOWN_WAREHOUSE: "There is no such active warehouse. Give codes of warehouses, or none for all of them.",
    Refusal.KEY_REUSED: "This Idempotency-Key was used for another hold. Use a new key for a new hold.",
    Refusal.NOT_ALONE: "Nothing is wrong with this line; another one was refused.",
    Refusal.UNKNOWN_HOLD: "There is no such hold.",
    Refusal.UNKNOWN_CHANNEL: "The merchant has no such channel. Leave `order` out if the order is in none of its channels.",
    Refusal.NO_ORDER_ID: "No order of this channel has such an id. Give it as the channel's own API shows it.",
    Refusal.IN_THE_FUTURE: "This lies in the future. Set the clock of your system, or leave the field out for now.",
    Refusal.EXPIRED: "The hold has expired. Ask for a new one.",
    Refusal.RELEASED: "The hold was released. Ask for a new one.",
    Refusal.NOT_COMMITTED: "The hold is no sale yet. Commit it, with `handed_over` if the goods have left; or release it.",
    Refusal.COMMITTED: "The hold was sold. Fulfil it when the goods have left, or cancel it to give its units back.",
    Refusal.FULFILLED: "The goods have left. Report what comes back as a movement of the type `return`.",
    Refusal.CANCELLED: "The sale was cancelled and its units given back. Ask for a new hold.",
}
_COMMITTED_TO_ORDER: Final = (
    "The hold was committed to an order, of which its channel tells: ship or cancel the order there. If the order never "
    "comes, somebody can release the hold in the admin."
)


def _words(answer: Answer) -> str:
    """Why something was not done, and the way out."""
    assert answer.refusal is not None
    if answer.refusal is Refusal.COMMITTED and answer.held is not None and answer.held.order_channel_id is not None:
        return _COMMITTED_TO_ORDER
    return _WORDS[answer.refusal]


# --- what is said -----------------------------------------------------------------------------------------------


class Lifetime(StrictInteger):
    """Seconds from now."""

    def __init__(self, **options: Any) -> None:
        longest = int(holds.LIFETIME_MAX.total_seconds())
        super().__init__(
            **{
                "min_value": 1,
                "max_value": longest,
                "default": int(holds.LIFETIME.total_seconds()),
                "help_text": f"Seconds until the hold expires, {longest} at most.",
                **options,
            }
        )


class NewHold(StrictSerializer):
    """Units somebody wants to keep for a while."""

    sku = StrictText(max_length=100)
    quantity = StrictInteger(min_value=1, max_value=QUANTITY_MAX)
    warehouses = serializers.ListField(
        child=StrictText(max_length=40),
        max_length=100,
        default=list,
        help_text="Codes, tried in this order. None: all active ones, the one with most of it first.",
    )
    split = StrictBoolean(default=False, help_text="Whether the units may come from several warehouses.")
    reference = StrictText(max_length=200, default="", allow_blank=True, help_text="Yours, such as a cart's number.")
    expires_in = Lifetime()


class _Mode(StrictSerializer):
    mode = serializers.ChoiceField(choices=[ALL_OR_NOTHING, PER_LINE], default=PER_LINE)


class NewHolds(_Mode):
    """Up to 500 holds."""

    holds = serializers.ListField(child=NewHold(), min_length=1, max_length=holds.BATCH_MAX)


class Extension(StrictSerializer):
    """How long a hold lives from now."""

    expires_in = Lifetime()


class Id(StrictInteger):
    """One that we gave."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"min_value": 1, "max_value": holds.ID_MAX, **options})


class OrderOfChannel(StrictSerializer):
    """An order as one of the merchant's channels tells of it."""

    channel = Id()
    id = StrictText(max_length=64, help_text="As the channel names it, such as 1001 or gid://shopify/Order/1001.")


class CommitmentOfHold(StrictSerializer):
    """The sale a hold became."""

    order = OrderOfChannel(
        required=False,
        allow_null=True,
        default=None,
        help_text="The units stay held until this order's own webhook is booked. None: the sale is booked now, and you will "
        "fulfil or cancel it.",
    )
    reference = StrictText(max_length=200, default="", allow_blank=True)
    handed_over = StrictBoolean(
        default=False, help_text="The customer has left with the goods: such a sale, of no order, is fulfilled at once."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """An order is fulfilled by its channel."""
        if attrs["handed_over"] and attrs["order"]:
            words = "The order's channel tells when it is shipped. Leave out `order` or `handed_over`."
            raise exceptions.ValidationError({"handed_over": [words]})
        return attrs


class FulfilmentOfHold(StrictSerializer):
    """That goods which were sold have left."""

    effective_at = Moment(required=False, default=None, help_text="When they left; now, if left out.")


class Nothing(StrictSerializer):
    """No content."""


class SomeHolds(_Mode):
    """Holds by their ids."""

    holds = serializers.ListField(child=Id(), min_length=1, max_length=holds.BATCH_MAX)


class SomeExtensions(SomeHolds):
    """Holds to be extended."""

    expires_in = Lifetime()


class LineOfCommitment(CommitmentOfHold):
    """A hold and the sale it became."""

    id = Id()


class SomeCommitments(_Mode):
    """Holds that became sales."""

    holds = serializers.ListField(child=LineOfCommitment(), min_length=1, max_length=holds.BATCH_MAX)


class LineOfFulfilment(FulfilmentOfHold):
    """A hold of which the goods have left."""

    id = Id()


class SomeFulfilments(_Mode):
    """Holds of which the goods have left."""

    holds = serializers.ListField(child=LineOfFulfilment(), min_length=1, max_length=holds.BATCH_MAX)


class HoldsQuery(PageQuery):
    """Which holds are listed."""

    state = serializers.ChoiceField(choices=HoldState.choices, required=False)
    sku = serializers.CharField(max_length=100, required=False)


# --- what is answered -------------------------------------------------------------------------------------------


class HoldPartAnswer(serializers.Serializer[Any]):
    """Units of a stocked SKU in a warehouse."""

    sku = serializers.CharField()
    warehouse = serializers.CharField()
    quantity = serializers.IntegerField()


class HoldAnswer(serializers.Serializer[Any]):
    """A hold as it is now."""

    id = serializers.IntegerField()
    sku = serializers.CharField()
    quantity = serializers.IntegerField()
    state = serializers.ChoiceField(choices=HoldState.choices)
    reference = serializers.CharField()
    order = OrderOfChannel(allow_null=True)
    correlation_id = serializers.UUIDField()
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    committed_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True, help_text="When its units were no longer held.")
    closed_at = serializers.DateTimeField(allow_null=True, help_text="When its sale was fulfilled or cancelled.")
    parts = HoldPartAnswer(many=True)


class LineAnswer(serializers.Serializer[Any]):
    """What became of one line."""

    status = serializers.ChoiceField(choices=["done", "refused"])
    hold = HoldAnswer(required=False)
    reason = serializers.CharField(required=False)
    detail = serializers.CharField(required=False)
    available = serializers.IntegerField(required=False)


class BatchAnswer(serializers.Serializer[Any]):
    """What became of each line, in order."""

    results = LineAnswer(many=True)


class HoldPage(serializers.Serializer[Any]):
    """Holds, newest first."""

    holds = HoldAnswer(many=True)
    next = serializers.CharField(allow_null=True)


def said_of(held: Held) -> dict[str, Any]:
    """A hold as the API shows it."""
    order = {"channel": held.order_channel_id, "id": held.order_id} if held.order_channel_id is not None else None
    return {
        "id": held.hold_id,
        "sku": held.sku,
        "quantity": held.quantity,
        "state": held.state,
        "reference": held.reference,
        "order": order,
        "correlation_id": str(held.correlation_id),
        "created_at": held.created_at.isoformat(),
        "expires_at": held.expires_at.isoformat(),
        "committed_at": held.committed_at.isoformat() if held.committed_at else None,
        "ended_at": held.ended_at.isoformat() if held.ended_at else None,
        "closed_at": held.closed_at.isoformat() if held.closed_at else None,
        "parts": [{"sku": part.sku, "warehouse": part.warehouse, "quantity": part.quantity} for part in held.parts],
    }


def _refused(answer: Answer) -> Problem:
    assert answer.refusal is not None
    more: dict[str, Any] = {} if answer.available is None else {"available": answer.available}
    if answer.held is not None:
        more["hold"] = said_of(answer.held)
    words, field = _words(answer), _FIELD.get(answer.refusal)
    errors = [{"field": field, "detail": words}] if field else None
    return Problem(_STATUS.get(answer.refusal, 409), answer.refusal.value, words, errors=errors, more=more)


def _line(answer: Answer) -> dict[str, Any]:
    line: dict[str, Any] = {"status": "refused" if answer.refusal else "done"}
    if answer.held is not None:
        line["hold"] = said_of(answer.held)
    if answer.refusal is not None:
        line |= {"reason": answer.refusal.value, "detail": _words(answer)}
    if answer.available is not None:
        line["available"] = answer.available
    return line


def _batch(answers: Sequence[Answer], mode: str) -> tuple[int, Any]:
    results = [_line(answer) for answer in answers]
    if mode == ALL_OR_NOTHING and any(answer.refusal for answer in answers):
        detail = "Nothing was done. Correct or leave out the lines that were refused, or send mode per_line."
        raise Problem(409, "batch-refused", detail, more={"results": results})
    return 200, {"results": results}


# --- holds ------------------------------------------------------------------------------------------------------


class HoldsView(ApiView):
    """Holds."""

    scopes = {"GET": Scope.HOLDS_WRITE, "POST": Scope.HOLDS_WRITE}

    @extend_schema(operation_id="holds_list", parameters=[HoldsQuery], responses=HoldPage)
    def get(self, request: Request) -> Response:
        """List holds, newest first."""
        asked = read_query(HoldsQuery, request)
        rows = Hold.objects.filter(merchant=self.merchant).order_by("-pk")
        if "state" in asked:
            rows = rows.filter(state=asked["state"])
        if "sku" in asked:
            rows = rows.filter(sku__code=asked["sku"], sku__merchant=self.merchant)
        if asked["cursor"]:
            rows = rows.filter(pk__lt=decode_cursor(asked["cursor"], parts=1)[0])
        ids = list(rows.values_list("pk", flat=True)[: asked["limit"]])
        found = holds.find(ids, merchant_id=self.merchant.pk)
        full = len(ids) == asked["limit"]
        return Response(
            {
                "holds": [said_of(found[hold_id]) for hold_id in ids],
                "next": encode_cursor(ids[-1]) if full else None,
            }
        )

    @extend_schema(request=NewHold, responses={201: HoldAnswer})
    def post(self, request: Request) -> Response:
        """Hold units until they are committed, released, or the hold expires.

        The same Idempotency-Key and body get the same hold, as it is by then. A refusal is not kept: nothing happened, so
        the same request may be sent again. Requests that come at the same time share a commit.
        """
        asked = read(NewHold, request.data)
        ask = _ask(asked, self.key.prefix, key=idempotency_key(request))
        [answer] = holding.hold([ask], merchant_id=self.merchant.pk, now=clock.now())
        if answer.held is None:
            raise _refused(answer)
        headers = {"Idempotency-Replayed": "true"} if answer.is_replay else {}
        return Response(said_of(answer.held), status=201, headers=headers)


def _ask(asked: Mapping[str, Any], source: str, *, key: str = "") -> holds.Ask:
    return holds.Ask(
        sku=asked["sku"],
        quantity=asked["quantity"],
        key=key,
        warehouses=tuple(asked["warehouses"]),
        split=asked["split"],
        reference=asked["reference"],
        lifetime=timedelta(seconds=asked["expires_in"]),
        source=source,
    )


class HoldView(ApiView):
    """One hold."""

    scopes = {"GET": Scope.HOLDS_WRITE}

    @extend_schema(responses=HoldAnswer)
    def get(self, request: Request, hold_id: int) -> Response:
        """A hold as it is now."""
        found = holds.find([hold_id], merchant_id=self.merchant.pk)
        if hold_id not in found:
            raise Http404(_WORDS[Refusal.UNKNOWN_HOLD])
        return Response(said_of(found[hold_id]))


class _ActView(ApiView):
    """Does something with one hold. Doing it again changes nothing, so a key is welcome and not needed."""

    scopes = {"POST": Scope.HOLDS_WRITE}
    needs_idempotency_key: ClassVar[bool] = False

    def answer(self, request: Request, act: Callable[[], list[Answer]]) -> HttpResponse:
        """Carry it out once and tell what became of the hold."""

        def once() -> tuple[int, Any]:
            [answer] = act()
            if answer.refusal is not None or answer.held is None:
                raise _refused(answer)
            return 200, said_of(answer.held)

        return self.once(request, once)


class ExtendView(_ActView):
    """More time."""

    @extend_schema(request=Extension, responses=HoldAnswer)
    def post(self, request: Request, hold_id: int) -> HttpResponse:
        """Let a hold live for so long from now, unless it lives longer anyway."""
        lifetime = timedelta(seconds=read(Extension, request.data)["expires_in"])
        merchant_id, now = self.merchant.pk, clock.now()
        return self.answer(
            request, lambda: holds.extend([hold_id], merchant_id=merchant_id, now=now, lifetime=lifetime)
        )


class CommitView(_ActView):
    """From a hold to a sale."""

    @extend_schema(request=CommitmentOfHold, responses=HoldAnswer)
    def post(self, request: Request, hold_id: int) -> HttpResponse:
        """Make a hold a sale: of a channel's order, or, without one, booked at once.

        A sale without an order takes its units until it is fulfilled or cancelled; a till says `handed_over` and is done. A
        hold that has expired is committed if its units are still there, else refused with 409.
        """
        commitment = _commitment(hold_id, read(CommitmentOfHold, request.data))
        merchant_id, now, source = self.merchant.pk, clock.now(), self.key.prefix
        return self.answer(request, lambda: holds.commit([commitment], merchant_id=merchant_id, now=now, source=source))


def _commitment(hold_id: int, asked: Mapping[str, Any]) -> holds.Commitment:
    order = asked["order"] or {"channel": None, "id": ""}
    return holds.Commitment(hold_id, order["channel"], order["id"], asked["reference"], asked["handed_over"])


class FulfilView(_ActView):
    """The goods have left."""

    @extend_schema(request=FulfilmentOfHold, responses=HoldAnswer)
    def post(self, request: Request, hold_id: int) -> HttpResponse:
        """Say that the goods of a sale without an order have left the warehouse: they are on hand no more.

        Say when, if a count may have missed them: what left before the newest count is not taken off it.
        """
        fulfilment = holds.Fulfilment(hold_id, read(FulfilmentOfHold, request.data)["effective_at"])
        merchant_id, now, source = self.merchant.pk, clock.now(), self.key.prefix
        return self.answer(request, lambda: holds.fulfil([fulfilment], merchant_id=merchant_id, now=now, source=source))


class CancelView(_ActView):
    """No sale after all."""

    @extend_schema(request=Nothing, responses=HoldAnswer)
    def post(self, request: Request, hold_id: int) -> HttpResponse:
        """Cancel a sale without an order of which the goods have not left: they can be sold again."""
        read(Nothing, request.data)
        merchant_id, now, source = self.merchant.pk, clock.now(), self.key.prefix
        return self.answer(request, lambda: holds.cancel([hold_id], merchant_id=merchant_id, now=now, source=source))


class ReleaseView(_ActView):
    """Back to stock."""

    @extend_schema(request=Nothing, responses=HoldAnswer)
    def post(self, request: Request, hold_id: int) -> HttpResponse:
        """Give the units of a hold back."""
        read(Nothing, request.data)
        merchant_id, now, source = self.merchant.pk, clock.now(), self.key.prefix
        return self.answer(request, lambda: holds.release([hold_id], merchant_id=merchant_id, now=now, source=source))


class HoldBatchView(ApiView):
    """Many holds at once."""

    scopes = {"POST": Scope.HOLDS_WRITE}

    @extend_schema(request=NewHolds, responses=BatchAnswer)
    def post(self, request: Request) -> HttpResponse:
        """Hold up to 500 times, in one transaction: each on its own, or all or nothing."""
        asked = read(NewHolds, request.data)
        merchant_id, mode = self.merchant.pk, asked["mode"]

        def act() -> tuple[int, Any]:
            asks = [_ask(line, self.key.prefix) for line in asked["holds"]]
            answers = holding.hold(
                asks, merchant_id=merchant_id, now=clock.now(), all_or_nothing=mode == ALL_OR_NOTHING
            )
            return _batch(answers, mode)

        return self.once(request, act)


class _BatchActView(ApiView):
    """Does something with many holds."""

    scopes = {"POST": Scope.HOLDS_WRITE}
    needs_idempotency_key: ClassVar[bool] = False

    def answer(self, request: Request, mode: str, act: Callable[[], list[Answer]]) -> HttpResponse:
        """Carry it out once and tell what became of each."""
        return self.once(request, lambda: _batch(act(), mode))


class ExtendBatchView(_BatchActView):
    """More time for many."""

    @extend_schema(request=SomeExtensions, responses=BatchAnswer)
    def post(self, request: Request) -> HttpResponse:
        """Extend up to 500 holds."""
        asked = read(SomeExtensions, request.data)
        return self.answer(
            request,
            asked["mode"],
            lambda: holds.extend(
                asked["holds"],
                merchant_id=self.merchant.pk,
                now=clock.now(),
                lifetime=timedelta(seconds=asked["expires_in"]),
                all_or_nothing=asked["mode"] == ALL_OR_NOTHING,
            ),
        )


class CommitBatchView(_BatchActView):
    """Many sales."""

    @extend_schema(request=SomeCommitments, responses=BatchAnswer)
    def post(self, request: Request) -> HttpResponse:
        """Commit up to 500 holds."""
        asked = read(SomeCommitments, request.data)
        return self.answer(
            request,
            asked["mode"],
            lambda: holds.commit(
                [_commitment(line["id"], line) for line in asked["holds"]],
                merchant_id=self.merchant.pk,
                now=clock.now(),
                source=self.key.prefix,
                all_or_nothing=asked["mode"] == ALL_OR_NOTHING,
            ),
        )


class FulfilBatchView(_BatchActView):
    """Many that have left."""

    @extend_schema(request=SomeFulfilments, responses=BatchAnswer)
    def post(self, request: Request) -> HttpResponse:
        """Fulfil up to 500 sales without an order."""
        asked = read(SomeFulfilments, request.data)
        return self.answer(
            request,
            asked["mode"],
            lambda: holds.fulfil(
                [holds.Fulfilment(line["id"], line["effective_at"]) for line in asked["holds"]],
                merchant_id=self.merchant.pk,
                now=clock.now(),
                source=self.key.prefix,
                all_or_nothing=asked["mode"] == ALL_OR_NOTHING,
            ),
        )


class CancelBatchView(_BatchActView):
    """Many that were none."""

    @extend_schema(request=SomeHolds, responses=BatchAnswer)
    def post(self, request: Request) -> HttpResponse:
        """Cancel up to 500 sales without an order."""
        asked = read(SomeHolds, request.data)
        return self.answer(
            request,
            asked["mode"],
            lambda: holds.cancel(
                asked["holds"],
                merchant_id=self.merchant.pk,
                now=clock.now(),
                source=self.key.prefix,
                all_or_nothing=asked["mode"] == ALL_OR_NOTHING,
            ),
        )


class ReleaseBatchView(_BatchActView):
    """Many back to stock."""

    @extend_schema(request=SomeHolds, responses=BatchAnswer)
    def post(self, request: Request) -> HttpResponse:
        """Release up to 500 holds."""
        asked = read(SomeHolds, request.data)
        return self.answer(
            request,
            asked["mode"],
            lambda: holds.release(
                asked["holds"],
                merchant_id=self.merchant.pk,
                now=clock.now(),
                source=self.key.prefix,
                all_or_nothing=asked["mode"] == ALL_OR_NOTHING,
            ),
        )


# --- availability -----------------------------------------------------------------------------------------------


class WarehouseAnswer(serializers.Serializer[Any]):
    """What there is in one warehouse."""

    warehouse = serializers.CharField()
    available = serializers.IntegerField(help_text="Below zero when more was sold than was there.")
    holdable = serializers.IntegerField(help_text="What a hold can have: no more than the stores leave to the API.")
    version = serializers.IntegerField(
        allow_null=True, help_text="Sequence of the ledger, growing with each change; none of a bundle."
    )


class AvailabilityAnswer(serializers.Serializer[Any]):
    """What there is of a SKU."""

    sku = serializers.CharField()
    available = serializers.IntegerField(help_text="In all warehouses; of a bundle, those that one warehouse can send.")
    available_split = serializers.IntegerField(help_text="With components from several warehouses.")
    holdable = serializers.IntegerField(help_text="The largest hold that one warehouse can give.")
    warehouses = WarehouseAnswer(many=True)
    age_seconds = serializers.FloatField(help_text="How old the reading is at most.")


class AvailabilityPage(serializers.Serializer[Any]):
    """The SKUs asked for, in order, and the codes that are none."""

    skus = AvailabilityAnswer(many=True)
    unknown = serializers.ListField(child=serializers.CharField())


class AvailabilityView(ApiView):
    """What can be sold."""

    scopes = {"GET": Scope.STOCK_READ}

    @extend_schema(
        parameters=[OpenApiParameter("sku", str, many=True, required=True, description=f"Up to {SKUS_MAX} SKUs.")],
        responses=AvailabilityPage,
    )
    def get(self, request: Request) -> Response:
        """What is available of SKUs, in all and in each active warehouse, bundles reckoned from their components.

        Read from memory: never older than ten seconds, and mostly as of the latest commit.
        """
        if set(request.query_params) - {"sku"}:
            raise exceptions.ValidationError({"sku": ["There is no other parameter."]})
        codes = list(dict.fromkeys(request.query_params.getlist("sku")))
        if not 0 < len(codes) <= SKUS_MAX or not all(0 < len(code) <= 100 and "\x00" not in code for code in codes):
            raise exceptions.ValidationError({"sku": [f"Give 1 to {SKUS_MAX} SKUs of 1 to 100 characters."]})
        merchant_id = self.merchant.pk
        known = recipes.load(merchant_id, codes)
        places = recipes.warehouses(merchant_id)
        readings = availability.read(merchant_id, {part for recipe in known.values() for part in recipe.parts})
        return Response(
            {
                "skus": [_available(code, known[code], places, readings) for code in codes if code in known],
                "unknown": [code for code in codes if code not in known],
            }
        )


def _available(code: str, recipe: Recipe, places: Mapping[str, int], readings: Mapping[int, Reading]) -> dict[str, Any]:
    shelves = {(shelf.sku_id, shelf.warehouse_id): shelf for part in recipe.parts for shelf in readings[part].shelves}
    available = {place: shelf.available for place, shelf in shelves.items()}
    holdable = {place: shelf.holdable for place, shelf in shelves.items()}
    is_bundle = recipe.sku_id not in recipe.parts
    warehouses: list[dict[str, Any]] = []
    for warehouse, warehouse_id in places.items():
        if is_bundle:
            units = most(recipe.parts, available, [warehouse_id], may_split=False)
            version = None
        elif (recipe.sku_id, warehouse_id) in shelves:
            units = available[recipe.sku_id, warehouse_id]
            version = shelves[recipe.sku_id, warehouse_id].seq
        else:
            continue
        warehouses.append(
            {
                "warehouse": warehouse,
                "available": units,
                "holdable": most(recipe.parts, holdable, [warehouse_id], may_split=False),
                "version": version,
            }
        )
    ids = list(places.values())
    return {
        "sku": code,
        "available": sum(max(0, warehouse["available"]) for warehouse in warehouses),
        "available_split": most(recipe.parts, available, ids, may_split=True),
        "holdable": most(recipe.parts, holdable, ids, may_split=False),
        "warehouses": warehouses,
        "age_seconds": round(max(readings[part].age_seconds for part in recipe.parts), 3),
    }

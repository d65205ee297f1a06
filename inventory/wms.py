"""The API of warehouse systems, tills and ERPs: movements, transfers and counts in, changes of stock out."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from django.http import Http404, HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from inventory import counts, feed, movements, transfers
from inventory.models import Transfer, TransferState
from inventory.movements import Status
from merchants.api import (
    PAGE_MAX,
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
    flattened,
    read,
    read_query,
)
from merchants.models import Scope
from synctec.lib import clock

ALL_OR_NOTHING, PER_LINE = "all_or_nothing", "per_line"


# --- batches ------------------------------------------------------------------------------------------------


class MovementLine(StrictSerializer):
    """One movement. Its key makes it once: choose it where the movement is born, such as your document's line."""

    key = StrictText(max_length=movements.KEY_LENGTH_MAX)
    type = serializers.ChoiceField(choices=movements.Kind.choices)
    sku = StrictText(max_length=100)
    warehouse = StrictText(max_length=40, help_text="The warehouse's code.")
    quantity = StrictInteger(help_text="Units; negative in an adjustment only.")
    reason = StrictText(max_length=500, required=False, allow_blank=True)
    reference = StrictText(max_length=200, required=False, allow_blank=True, help_text="Such as PO 4711.")
    effective_at = Moment(required=False, help_text="When it happened; now, if left out.")


class CountLine(StrictSerializer):
    """One count: all units of a SKU that were in the warehouse, sold but not shipped ones included."""

    key = StrictText(max_length=movements.KEY_LENGTH_MAX)
    sku = StrictText(max_length=100)
    warehouse = StrictText(max_length=40, help_text="The warehouse's code.")
    quantity = StrictInteger(min_value=0)
    counted_at = Moment(required=False, help_text="As of when; now, if left out.")
    reason = StrictText(max_length=500, required=False, allow_blank=True)


class _Batch(StrictSerializer):
    mode = serializers.ChoiceField(
        choices=[ALL_OR_NOTHING, PER_LINE],
        help_text="all_or_nothing: one refused line keeps the others from being booked (422). per_line: each on its own.",
    )


class _AnyLines(_Batch):
    """The batch as it is read first: each line is judged by itself afterwards."""

    lines = serializers.ListField(min_length=1, max_length=movements.LINES_MAX)


class MovementBatch(_Batch):
    """Movements, in the order in which they are to be booked."""

    lines = serializers.ListField(child=MovementLine(), max_length=movements.LINES_MAX)


class CountBatch(_Batch):
    """Counts, in any order."""

    lines = serializers.ListField(child=CountLine(), max_length=movements.LINES_MAX)


class FieldError(serializers.Serializer[Any]):
    """What is wrong with a field, and the way out."""

    field = serializers.CharField()
    detail = serializers.CharField()


class MovementResult(serializers.Serializer[Any]):
    """What became of a line."""

    key = serializers.CharField()
    status = serializers.ChoiceField(choices=Status.choices)
    errors = FieldError(many=True)  # type: ignore[assignment]  # a field, not what a check found
    on_hand = serializers.IntegerField(allow_null=True, help_text="After the batch.")


class CountResult(MovementResult):
    """What became of a count."""

    status = serializers.ChoiceField(choices=["applied", "superseded", "duplicate", "refused", "not_applied"])
    correction = serializers.IntegerField(allow_null=True, help_text="What on_hand was moved by.")


class MovementResults(serializers.Serializer[Any]):
    """One result per line, in the order of the lines."""

    results = MovementResult(many=True)


class CountResults(serializers.Serializer[Any]):
    """One result per line, in the order of the lines."""

    results = CountResult(many=True)


def _read_lines(lines: Sequence[Any], line: StrictSerializer) -> tuple[dict[int, Any], dict[int, Any]]:
    """The lines that can be read, and what is wrong with the others, each by its place."""
    good: dict[int, Any] = {}
    bad: dict[int, Any] = {}
    for place, data in enumerate(lines):
        try:
            good[place] = line.run_validation(data)
        except exceptions.ValidationError as error:
            bad[place] = [{"field": field, "detail": detail} for field, detail in flattened(error.detail)]
    return good, bad


def _key_of(data: Any) -> str:
    """The key of a line, as far as it has one, so that its sender recognises it."""
    key = data.get("key") if isinstance(data, dict) else None
    return key[: 2 * movements.KEY_LENGTH_MAX] if isinstance(key, str) else ""


class _BatchView(ApiView):
    """Reads a batch line by line, has it booked, and answers per line."""

    needs_idempotency_key = False
    line: ClassVar[type[StrictSerializer]]
    outcome: ClassVar[Callable[..., Any]]

    def book(self, said: Sequence[dict[str, Any]], *, all_or_nothing: bool) -> Sequence[Any]:
        """Book lines that can be read; an outcome each, in order."""
        raise NotImplementedError

    def answer(self, request: Request) -> HttpResponse:
        asked = read(_AnyLines, request.data)
        return self.once(request, lambda: self._book_batch(asked))

    def _book_batch(self, asked: dict[str, Any]) -> tuple[int, Any]:
        make, lines = type(self).outcome, asked["lines"]
        good, bad = _read_lines(lines, self.line())
        all_or_nothing = asked["mode"] == ALL_OR_NOTHING
        outcomes = {place: make(_key_of(lines[place]), Status.REFUSED.value, errors) for place, errors in bad.items()}
        if bad and all_or_nothing:
            outcomes |= {place: make(said["key"], Status.NOT_APPLIED.value) for place, said in good.items()}
        else:
            booked = self.book(list(good.values()), all_or_nothing=all_or_nothing)
            outcomes |= dict(zip(good, booked, strict=True))
        in_order = [asdict(outcomes[place]) for place in sorted(outcomes)]
        if all_or_nothing and any(result["status"] == Status.REFUSED for result in in_order):
            raise Problem(
                422,
                "batch-refused",
                "Nothing was booked. Correct the lines that were refused, or send mode per_line.",
                more={"results": in_order},
            )
        return 200, {"results": in_order}

    @property
    def reporter(self) -> movements.Reporter:
        return movements.Reporter(source=self.key.prefix)


class MovementsView(_BatchView):
    """Movements from outside the channels."""

    scopes = {"POST": Scope.STOCK_WRITE}
    line = MovementLine
    outcome = movements.Outcome

    @extend_schema(request=MovementBatch, responses=MovementResults)
    def post(self, request: Request) -> HttpResponse:
        """Report up to 1,000 movements: purchase orders received, adjustments, damage, returns.

        Each line is booked once, by its key: send a batch again after a timeout, and what was booked is a duplicate. A key
        with another content is refused.
        """
        return self.answer(request)

    def book(self, said: Sequence[dict[str, Any]], *, all_or_nothing: bool) -> Sequence[movements.Outcome]:
        lines = [
            movements.Reported(
                kind=movements.Kind(line["type"]), **{name: value for name, value in line.items() if name != "type"}
            )
            for line in said
        ]
        return movements.report(
            merchant_id=self.merchant.pk,
            lines=lines,
            reporter=self.reporter,
            all_or_nothing=all_or_nothing,
            now=clock.now(),
        )


class CountsView(_BatchView):
    """Stock takes."""

    scopes = {"POST": Scope.STOCK_WRITE}
    line = CountLine
    outcome = counts.Outcome

    @extend_schema(request=CountBatch, responses=CountResults)
    def post(self, request: Request) -> HttpResponse:
        """Report up to 1,000 counts, each as of a moment.

        The newest count of a SKU in a warehouse is what on_hand is reckoned from; movements after it are added, those
        before it were seen by it. A count older than the newest is `superseded` and moves nothing.
        """
        return self.answer(request)

    def book(self, said: Sequence[dict[str, Any]], *, all_or_nothing: bool) -> Sequence[counts.Outcome]:
        return counts.take(
            merchant_id=self.merchant.pk,
            counts=[counts.Counted(**line) for line in said],
            reporter=self.reporter,
            all_or_nothing=all_or_nothing,
            now=clock.now(),
        )


# --- transfers ----------------------------------------------------------------------------------------------


class UnitsLine(StrictSerializer):
    """So many units of a SKU."""

    sku = StrictText(max_length=100)
    quantity = StrictInteger(min_value=1, max_value=movements.QUANTITY_MAX)


class NewTransfer(StrictSerializer):
    """Units that leave one warehouse for another."""

    origin = StrictText(max_length=40, help_text="The code of the warehouse they leave.")
    destination = StrictText(max_length=40, help_text="The code of the warehouse they go to.")
    lines = serializers.ListField(child=UnitsLine(), min_length=1, max_length=movements.LINES_MAX)
    reference = StrictText(max_length=200, required=False, allow_blank=True, default="")
    allow_shortage = StrictBoolean(
        required=False,
        default=False,
        help_text="They have left already, even if the books say that they were not there.",
    )
    effective_at = Moment(required=False, help_text="When they left; now, if left out.")


class Receipt(StrictSerializer):
    """What arrived."""

    lines = serializers.ListField(
        child=UnitsLine(), required=False, max_length=movements.LINES_MAX, help_text="Left out: all in transit."
    )
    effective_at = Moment(required=False, help_text="When they arrived; now, if left out.")


class Cancellation(StrictSerializer):
    """Why what is in transit comes back."""

    reason = StrictText(max_length=500)


class TransferLineShown(serializers.Serializer[Any]):
    """One SKU of a transfer: quantity = received + returned + in_transit."""

    sku = serializers.CharField(source="sku.code")
    quantity = serializers.IntegerField()
    received = serializers.IntegerField()
    returned = serializers.IntegerField()
    in_transit = serializers.IntegerField()


class TransferShown(serializers.ModelSerializer[Transfer]):
    """A transfer and where its units are."""

    id = serializers.UUIDField(source="uid")
    origin = serializers.CharField(source="origin.code")
    destination = serializers.CharField(source="destination.code")
    lines = TransferLineShown(many=True)

    class Meta:
        model = Transfer
        fields = (
            "id",
            "origin",
            "destination",
            "state",
            "reference",
            "sent_at",
            "closed_at",
            "correlation_id",
            "lines",
        )


class TransferPage(serializers.Serializer[Any]):
    """Transfers, newest first."""

    transfers = TransferShown(many=True)
    next = serializers.CharField(allow_null=True, help_text="The cursor of the next page; null at the end.")


class TransferQuery(PageQuery):
    """Which transfers."""

    state = serializers.ChoiceField(choices=TransferState.choices, required=False)


class _TransferView(ApiView):
    def shown(self, transfer: Transfer) -> dict[str, Any]:
        rows = Transfer.objects.select_related("origin", "destination").prefetch_related("lines__sku")
        return dict(TransferShown(rows.get(pk=transfer.pk)).data)

    def found(self, reference: uuid.UUID) -> Transfer:
        """The merchant's transfer. Raises Http404, the same for another's and for none."""
        transfer = transfers.find(merchant_id=self.merchant.pk, uid=reference)
        if transfer is None:
            raise Http404("There is no such transfer.")
        return transfer

    def done(self, request: Request, status: int, act: Callable[[], Transfer]) -> HttpResponse:
        """Do it once and show the transfer as it then is."""
        try:
            return self.once(request, lambda: (status, self.shown(act())))
        except transfers.TransferRefused as refused:
            raise Problem(422, "transfer-refused", "Nothing was moved.", errors=refused.errors) from None

    @property
    def actor(self) -> transfers.Actor:
        return transfers.Actor(api_key=self.key)


class TransfersView(_TransferView):
    """Transfers between warehouses."""

    scopes = {"GET": Scope.STOCK_READ, "POST": Scope.STOCK_WRITE}

    @extend_schema(operation_id="transfers_list", parameters=[TransferQuery], responses=TransferPage)
    def get(self, request: Request) -> Response:
        """Transfers, newest first; `state=in_transit` for those with units on their way."""
        asked = read_query(TransferQuery, request)
        rows = Transfer.objects.filter(merchant=self.merchant).order_by("-id")
        if asked.get("state"):
            rows = rows.filter(state=asked["state"])
        if asked["cursor"]:
            rows = rows.filter(pk__lt=decode_cursor(asked["cursor"], parts=1)[0])
        found = list(rows.select_related("origin", "destination").prefetch_related("lines__sku")[: asked["limit"] + 1])
        page = found[: asked["limit"]]
        following = encode_cursor(page[-1].pk) if len(found) > len(page) else None
        return Response({"transfers": TransferShown(page, many=True).data, "next": following})

    @extend_schema(request=NewTransfer, responses={201: TransferShown})
    def post(self, request: Request) -> HttpResponse:
        """Send units from one warehouse to another. Until they are received they are in neither."""
        asked = read(NewTransfer, request.data)
        return self.done(
            request,
            201,
            lambda: transfers.send(
                merchant_id=self.merchant.pk,
                origin=asked["origin"],
                destination=asked["destination"],
                units=[transfers.Units(**line) for line in asked["lines"]],
                reference=asked["reference"],
                allow_shortage=asked["allow_shortage"],
                actor=self.actor,
                now=clock.now(),
                effective_at=asked.get("effective_at"),
            ),
        )


class TransferView(_TransferView):
    """One transfer."""

    scopes = {"GET": Scope.STOCK_READ}

    @extend_schema(responses=TransferShown)
    def get(self, request: Request, reference: uuid.UUID) -> Response:
        """One transfer, and where its units are."""
        return Response(self.shown(self.found(reference)))


class TransferReceiptsView(_TransferView):
    """Arrivals of one transfer."""

    scopes = {"POST": Scope.STOCK_WRITE}

    @extend_schema(request=Receipt, responses=TransferShown)
    def post(self, request: Request, reference: uuid.UUID) -> HttpResponse:
        """Receive units of a transfer: those named, or all that are in transit."""
        transfer = self.found(reference)
        asked = read(Receipt, request.data)
        units = [transfers.Units(**line) for line in asked["lines"]] if "lines" in asked else None
        return self.done(
            request,
            200,
            lambda: transfers.receive(
                transfer=transfer,
                units=units,
                actor=self.actor,
                now=clock.now(),
                effective_at=asked.get("effective_at"),
            ),
        )


class TransferCancellationView(_TransferView):
    """The end of one transfer before everything arrived."""

    scopes = {"POST": Scope.STOCK_WRITE}

    @extend_schema(request=Cancellation, responses=TransferShown)
    def post(self, request: Request, reference: uuid.UUID) -> HttpResponse:
        """Take what is in transit back to where it came from. What was received stays."""
        transfer = self.found(reference)
        asked = read(Cancellation, request.data)
        return self.done(
            request,
            200,
            lambda: transfers.cancel(transfer=transfer, reason=asked["reason"], actor=self.actor, now=clock.now()),
        )


# --- the feed -----------------------------------------------------------------------------------------------


class ChangesQuery(PageQuery):
    """Which changes. The limit counts movements."""

    skip_own = serializers.BooleanField(
        required=False, default=False, help_text="Leave out levels that only this key's own movements changed."
    )


class MovementShown(serializers.Serializer[Any]):
    """One line of the ledger."""

    seq = serializers.IntegerField(help_text="Counts the movements of a stock level, without gaps.")
    account = serializers.ChoiceField(choices=["on_hand", "committed", "held"])
    delta = serializers.IntegerField()
    cause = serializers.CharField()
    reference = serializers.CharField()
    reason = serializers.CharField()
    source = serializers.CharField(  # type: ignore[assignment]  # a field, not where one reads from
        help_text="How the API key begins that told of it, or empty."
    )
    correlation_id = serializers.UUIDField()
    effective_at = serializers.DateTimeField()
    recorded_at = serializers.DateTimeField()


class ChangeShown(serializers.Serializer[Any]):
    """A stock level as it is now, and the movements that brought it there."""

    sku = serializers.CharField()
    warehouse = serializers.CharField()
    on_hand = serializers.IntegerField()
    committed = serializers.IntegerField()
    held = serializers.IntegerField()
    available = serializers.IntegerField()
    seq = serializers.IntegerField(help_text="Of two states of a level the one with the greater number is newer.")
    updated_at = serializers.DateTimeField()
    movements = MovementShown(many=True)


class ChangesPage(serializers.Serializer[Any]):
    """Changes in order, and where to go on."""

    changes = ChangeShown(many=True)
    next = serializers.CharField(help_text="The cursor to go on with, also when there was nothing new.")
    has_more = serializers.BooleanField(help_text="Whether more can be read at once.")


class ChangesView(ApiView):
    """The feed of changes."""

    scopes = {"GET": Scope.FEED_READ}

    @extend_schema(parameters=[ChangesQuery], responses=ChangesPage)
    def get(self, request: Request) -> Response:
        """Changes of stock since a cursor, from the very first without one. Nothing is ever left out.

        Keep `next` and hand it back. A page tells of each stock level once, with its numbers of now; of two states of a
        level the one with the greater `seq` is newer.
        """
        asked = read_query(ChangesQuery, request)
        after = feed.Position(*decode_cursor(asked["cursor"], parts=2)) if asked["cursor"] else feed.START
        try:
            page = feed.read(
                merchant_id=self.merchant.pk,
                after=after,
                limit=min(asked["limit"], PAGE_MAX),
                skip_source=self.key.prefix if asked["skip_own"] else "",
            )
        except feed.CursorOfAnotherTime:
            raise Problem(
                410,
                "cursor-gone",
                "This cursor is from before our database was restored. Start again without one: `seq` tells what is new.",
            ) from None
        return Response(
            {
                "changes": [change.as_json() for change in page.changes],
                "next": encode_cursor(*page.position),
                "has_more": page.has_more,
            }
        )

"""Every way a request can end, against a store that answers as told."""

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from channels.connectors.shopify import client
from channels.connectors.shopify.connector import ShopifyConnector
from channels.connectors.shopify.costs import CostBook
from channels.connectors.shopify.version import API_VERSION
from channels.pacing import Unpaced
from channels.protocol import (
    CallEnd,
    ChannelError,
    NotAuthorized,
    OutcomeUnknown,
    QuantityChange,
    Refused,
    Throttled,
    ThrottleStatus,
    Unavailable,
)
from synctec.lib.http import AddressRule, GuardedSession
from synctec.lib.secret import Secret
from tests.channels.connectors.shopify.scripted import HANG_UP, Answer, Ledger, ScriptedStore

NO_LOCATIONS = {"locations": {"nodes": [], "pageInfo": {"hasNextPage": False, "endCursor": None}}}
WRITTEN: dict[str, Any] = {"inventorySetQuantities": {"inventoryAdjustmentGroup": None, "userErrors": []}}
CHANGES = [QuantityChange("71", "41", from_quantity=5, to_quantity=3)]
THROTTLE_STATUS = {"maximumAvailable": 2000.0, "currentlyAvailable": 20, "restoreRate": 100.0}


@pytest.fixture(autouse=True)
def _nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_COSTS", CostBook())


def write(connector: ShopifyConnector) -> object:
    return connector.write_quantities(CHANGES, key="key-1", reference="batch-1")


def read(connector: ShopifyConnector) -> object:
    return connector.read_locations()


def error(code: str | None, message: str = "as the store words it") -> dict[str, Any]:
    return {"message": message} | ({"extensions": {"code": code}} if code else {})


class TestRequest:
    def test_it_carries_token_version_key_and_the_printed_document(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers_data(WRITTEN)

        write(connector)

        (asked,) = store.asked
        assert asked.path == f"/admin/api/{API_VERSION}/graphql.json"
        assert asked.headers["x-shopify-access-token"] == "stale-token"
        assert asked.headers["content-type"] == "application/json"
        assert asked.body["operationName"] == "SetQuantities"
        assert "@idempotent(key: $key)" in asked.body["query"]
        assert asked.body["variables"]["key"] == "key-1"

    def test_a_repeated_write_is_the_same_request(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers_data(WRITTEN)

        write(connector)
        write(connector)

        assert store.asked[0].body == store.asked[1].body


@pytest.mark.parametrize(
    ("answer", "of_query", "of_mutation", "code"),
    [
        (HANG_UP, Unavailable, OutcomeUnknown, "OutcomeUnknown"),
        (Answer(status=500), Unavailable, OutcomeUnknown, "HTTP_500"),
        (Answer(status=502), Unavailable, OutcomeUnknown, "HTTP_502"),
        (Answer(status=503), Unavailable, OutcomeUnknown, "HTTP_503"),
        (Answer(status=204), Unavailable, OutcomeUnknown, "HTTP_204"),
        (Answer(status=301, headers={"Location": "/"}), Unavailable, OutcomeUnknown, "RedirectRefused"),
        (Answer(b"<html>busy</html>"), Unavailable, OutcomeUnknown, "ANSWER_UNREADABLE"),
        (Answer(b"[" * 90_000), Unavailable, OutcomeUnknown, "ANSWER_UNREADABLE"),
        (Answer(b"[]"), Unavailable, OutcomeUnknown, "ANSWER_UNREADABLE"),
        (Answer({}), Unavailable, OutcomeUnknown, "ANSWER_UNREADABLE"),
        (Answer({"data": None}), Unavailable, OutcomeUnknown, "ANSWER_UNREADABLE"),
        (Answer({"data": 7}), Unavailable, OutcomeUnknown, "ANSWER_UNREADABLE"),
        (Answer({"data": {}}), Unavailable, OutcomeUnknown, "ANSWER_UNREADABLE"),
        (Answer({"data": {"locations": []}}), Unavailable, OutcomeUnknown, "ANSWER_UNREADABLE"),
        (Answer(b" " * 200_000), Unavailable, OutcomeUnknown, "ResponseTooLarge"),
        (
            Answer({"errors": [error("INTERNAL_SERVER_ERROR")]}),
            Unavailable,
            OutcomeUnknown,
            "INTERNAL_SERVER_ERROR",
        ),
        (Answer({"errors": [error("TIMEOUT")]}), Unavailable, OutcomeUnknown, "TIMEOUT"),
        (Answer(status=429), Throttled, Throttled, "HTTP_429"),
        (Answer({"errors": [error("THROTTLED")]}), Throttled, Throttled, "THROTTLED"),
        (Answer(status=401), NotAuthorized, NotAuthorized, "HTTP_401"),
        (Answer(status=403), NotAuthorized, NotAuthorized, "HTTP_403"),
        (Answer({"errors": [error("ACCESS_DENIED")]}), NotAuthorized, NotAuthorized, "ACCESS_DENIED"),
        (Answer(status=402), Unavailable, Unavailable, "HTTP_402"),
        (Answer(status=423), Unavailable, Unavailable, "HTTP_423"),
        (Answer(status=404), Refused, Refused, "HTTP_404"),
        (Answer(status=400), Refused, Refused, "HTTP_400"),
        (Answer({"errors": [error("MAX_INPUT_SIZE_EXCEEDED")]}), Refused, Refused, "MAX_INPUT_SIZE_EXCEEDED"),
        (Answer({"errors": [error("BAD_REQUEST")], "data": {"x": None}}), Refused, Refused, "BAD_REQUEST"),
        (Answer({"errors": [error(None)]}), Refused, Refused, "UNKNOWN"),
        (Answer({"errors": "no such thing"}), Refused, Refused, "UNKNOWN"),
        (Answer({"errors": {"strange": 1}}), Refused, Refused, "UNKNOWN"),
        (Answer({"errors": [7, None, {"extensions": 3, "message": 4}]}), Refused, Refused, "UNKNOWN"),
    ],
)
class TestEndings:
    def test_of_a_query(
        self,
        store: ScriptedStore,
        connector: ShopifyConnector,
        answer: Answer | str,
        of_query: type[ChannelError],
        of_mutation: type[ChannelError],
        code: str,
    ) -> None:
        store.answers(answer)

        with pytest.raises(ChannelError) as caught:
            read(connector)

        assert (type(caught.value), caught.value.code) == (of_query, code)

    def test_of_a_mutation(
        self,
        store: ScriptedStore,
        connector: ShopifyConnector,
        answer: Answer | str,
        of_query: type[ChannelError],
        of_mutation: type[ChannelError],
        code: str,
    ) -> None:
        store.answers(answer)

        with pytest.raises(ChannelError) as caught:
            write(connector)

        assert (type(caught.value), caught.value.code) == (of_mutation, code)


class TestSending:
    def test_a_store_that_cannot_be_reached_did_nothing(self, ledger: Ledger) -> None:
        with GuardedSession(AddressRule.exact_origin("http://127.0.0.1:9")) as session:
            connector = ShopifyConnector(
                account="n.myshopify.com",
                base_url="http://127.0.0.1:9",
                token=lambda force_refresh: Secret("t"),
                session=session,
                pacer=ledger,
            )

            with pytest.raises(Unavailable, match="cannot be reached"):
                write(connector)

        assert ledger.settled == [(13.0, 0.0, None)]  # the points were not spent

    def test_an_address_outside_the_rule_is_never_asked(self, session: GuardedSession) -> None:
        connector = ShopifyConnector(
            account="n.myshopify.com",
            base_url="http://127.0.0.2:80",
            token=lambda force_refresh: Secret("t"),
            session=session,
            pacer=Unpaced(),
        )

        with pytest.raises(Refused, match="not allowed"):
            read(connector)

    def test_an_answer_beside_an_error_leaves_a_write_open(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers(Answer({"data": WRITTEN, "errors": [error("SOME_FIELD_FAILED")]}))

        with pytest.raises(OutcomeUnknown, match="applied a write and then failed"):
            write(connector)


class TestToken:
    def test_a_refused_token_is_refreshed_once_and_the_request_repeated(
        self, store: ScriptedStore, connector: ShopifyConnector
    ) -> None:
        store.answers(Answer(status=401), Answer({"data": WRITTEN}))

        write(connector)

        assert [asked.headers["x-shopify-access-token"] for asked in store.asked] == [
            "stale-token",
            "fresh-token",
        ]
        assert store.asked[0].body == store.asked[1].body

    def test_a_second_refusal_is_final(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers(Answer(status=401))

        with pytest.raises(NotAuthorized, match="connect the store again"):
            write(connector)

        assert len(store.asked) == 2

    def test_forbidden_is_final_at_once(self, store: ScriptedStore, connector: ShopifyConnector) -> None:
        store.answers(Answer(status=403))

        with pytest.raises(NotAuthorized):
            write(connector)

        assert len(store.asked) == 1

    @pytest.mark.parametrize("call", [read, write])
    @pytest.mark.parametrize(
        "answer",
        [HANG_UP, Answer(status=401), Answer(status=500), Answer(b"x"), Answer({"errors": [error(None)]})],
    )
    def test_no_error_and_no_log_line_shows_it(
        self,
        store: ScriptedStore,
        connector: ShopifyConnector,
        call: Callable[[ShopifyConnector], object],
        answer: Answer | str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        store.answers(answer)
        caplog.set_level(logging.DEBUG)

        with pytest.raises(ChannelError) as caught:
            call(connector)

        chain: BaseException | None = caught.value
        while chain is not None:
            assert "-token" not in f"{chain!r} {chain}"
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
        assert "-token" not in caplog.text


class TestPacing:
    def test_the_cost_is_settled_and_the_stores_view_passed_on(
        self, store: ScriptedStore, connector: ShopifyConnector, ledger: Ledger
    ) -> None:
        cost = {"requestedQueryCost": 11, "actualQueryCost": 10, "throttleStatus": THROTTLE_STATUS}
        store.answers(Answer({"data": WRITTEN, "extensions": {"cost": cost}}))

        write(connector)
        write(connector)

        assert ledger.acquired == [13.0, 11.0]  # the recorded figure first, then what the store asked for
        assert ledger.settled == [
            (13.0, 10.0, ThrottleStatus(2000.0, 20.0, 100.0)),
            (11.0, 10.0, ThrottleStatus(2000.0, 20.0, 100.0)),
        ]

    def test_throttled_waits_until_the_bucket_holds_what_was_asked(
        self, store: ScriptedStore, connector: ShopifyConnector, ledger: Ledger
    ) -> None:
        cost = {"requestedQueryCost": 320, "actualQueryCost": None, "throttleStatus": THROTTLE_STATUS}
        store.answers(Answer({"errors": [error("THROTTLED")], "extensions": {"cost": cost}}))

        with pytest.raises(Throttled) as caught:
            write(connector)

        assert caught.value.retry_after == 3.0
        assert ledger.penalties == [3.0]
        assert ledger.settled == [(13.0, 0.0, ThrottleStatus(2000.0, 20.0, 100.0))]

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            ("7", 7.0),
            ("0.5", 0.5),
            ("", 1.0),
            ("nan", 1.0),
            ("-3", 1.0),
            ("1e9", 300.0),
            ("Sat, 21 Nov 2026", 1.0),
        ],
    )
    def test_429_waits_for_what_the_header_says(
        self, store: ScriptedStore, connector: ShopifyConnector, ledger: Ledger, header: str, seconds: float
    ) -> None:
        store.answers(Answer(status=429, headers={"Retry-After": header}))

        with pytest.raises(Throttled) as caught:
            read(connector)

        assert caught.value.retry_after == seconds
        assert ledger.penalties == [seconds]

    @pytest.mark.parametrize(
        "cost",
        [
            7,
            {},
            {"requestedQueryCost": "11", "actualQueryCost": True, "throttleStatus": []},
            {"requestedQueryCost": -1, "actualQueryCost": 1e300, "throttleStatus": {"maximumAvailable": 0}},
        ],
    )
    def test_nonsense_about_costs_changes_nothing(
        self, store: ScriptedStore, connector: ShopifyConnector, ledger: Ledger, cost: object
    ) -> None:
        store.answers(Answer({"data": WRITTEN, "extensions": {"cost": cost}}))

        write(connector)
        write(connector)

        assert ledger.settled == [(13.0, 13.0, None)] * 2

    @pytest.mark.parametrize("answer", [HANG_UP, Answer(status=500), Answer(b"x")])
    def test_an_unanswered_request_counts_as_spent(
        self, store: ScriptedStore, connector: ShopifyConnector, ledger: Ledger, answer: Answer | str
    ) -> None:
        store.answers(answer)

        with pytest.raises(OutcomeUnknown):
            write(connector)

        assert ledger.settled == [(13.0, 13.0, None)]

    def test_a_refused_grant_sends_nothing(
        self,
        store: ScriptedStore,
        connector: ShopifyConnector,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def refuse(cost: float) -> None:
            raise Throttled("later", retry_after=9.0)

        monkeypatch.setattr(ledger, "acquire", refuse)

        with pytest.raises(Throttled):
            write(connector)

        assert (store.asked, ledger.settled) == ([], [])

    @pytest.mark.parametrize(
        ("answer", "end"),
        [
            (Answer({"data": WRITTEN}), CallEnd.ANSWERED),
            (Answer(status=429), CallEnd.ANSWERED),
            (Answer(status=404), CallEnd.ANSWERED),
            (Answer(status=402), CallEnd.ANSWERED),
            (Answer({"errors": [error("ACCESS_DENIED")]}), CallEnd.ANSWERED),
            (Answer(status=503), CallEnd.BROKEN),
            (Answer({"errors": [error("INTERNAL_SERVER_ERROR")]}), CallEnd.BROKEN),
            (Answer(b"x"), CallEnd.BROKEN),
            (HANG_UP, CallEnd.BROKEN),
        ],
    )
    def test_how_a_call_ended_is_passed_on(
        self, store: ScriptedStore, connector: ShopifyConnector, ledger: Ledger, answer: Answer | str, end: CallEnd
    ) -> None:
        store.answers(answer)

        with contextlib.suppress(ChannelError):
            write(connector)

        [(told, _)] = ledger.ends
        assert told is end

    def test_the_failure_that_opens_the_breaker_says_when_to_come_back(
        self, store: ScriptedStore, connector: ShopifyConnector, ledger: Ledger
    ) -> None:
        ledger.rest_seconds = 30.0
        store.answers(Answer(status=500))

        with pytest.raises(OutcomeUnknown) as caught:
            write(connector)

        assert caught.value.retry_after == 30.0
        assert ledger.ends == [(CallEnd.BROKEN, caught.value)]

"""What an answer to a write says of its rows: pure."""

import gzip
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from channels.connectors.shopify.version import API_VERSION
from channels.connectors.shopify.writing import MEANINGS, Verdict, input_of, read_write_result
from channels.protocol import OutcomeUnknown, QuantityChange, Refused, RowOutcome, RowResult

REAL_SCHEMA = Path(__file__).parents[5] / "shared" / "specs" / "shopify" / f"admin_{API_VERSION}.graphql.gz"
CHANGE = QuantityChange("71", "41", from_quantity=5, to_quantity=3)


def error(code: str, *path: object) -> dict[str, Any]:
    return {"code": code, "message": "as the store words it", "field": list(path) or None}


def row_error(code: str, row: int) -> dict[str, Any]:
    return error(code, "input", "quantities", str(row), "inventoryItemId")


def outcomes(*errors: dict[str, Any], rows: int) -> list[tuple[str, str]]:
    result = read_write_result({"inventoryAdjustmentGroup": None, "userErrors": list(errors)}, row_count=rows)
    return [(row.outcome.value, row.code) for row in result.rows]


class TestInput:
    def test_rows_say_what_they_change_from_and_to(self) -> None:
        assert input_of([CHANGE], reference="01J") == {
            "name": "available",
            "reason": "correction",
            "referenceDocumentUri": "gid://synctec/PushBatch/01J",
            "quantities": [
                {
                    "inventoryItemId": "gid://shopify/InventoryItem/71",
                    "locationId": "gid://shopify/Location/41",
                    "quantity": 3,
                    "changeFromQuantity": 5,
                }
            ],
        }

    def test_a_whole_reference_is_left_as_it_is(self) -> None:
        assert input_of([CHANGE], reference="gid://other/X/1")["referenceDocumentUri"] == "gid://other/X/1"

    @pytest.mark.parametrize("count", [0, 251])
    def test_too_few_or_too_many_rows_are_our_mistake(self, count: int) -> None:
        with pytest.raises(Refused, match="1 to 250 rows"):
            input_of([CHANGE] * count, reference="x")


class TestSuccess:
    def test_every_row_is_confirmed_with_the_stores_time(self) -> None:
        payload = {
            "inventoryAdjustmentGroup": {"id": "gid://x", "createdAt": "2026-11-20T15:00:00Z"},
            "userErrors": [],
        }

        result = read_write_result(payload, row_count=2)

        assert result.rows == (RowResult(RowOutcome.CONFIRMED),) * 2
        assert result.source_at == datetime(2026, 11, 20, 15, 0, tzinfo=UTC)

    @pytest.mark.parametrize("group", [None, {}, {"createdAt": "soon"}, 7])
    def test_a_write_that_changed_nothing_or_tells_no_time_is_confirmed_too(self, group: object) -> None:
        result = read_write_result({"inventoryAdjustmentGroup": group, "userErrors": []}, row_count=1)

        assert result.rows == (RowResult(RowOutcome.CONFIRMED),)
        assert result.source_at is None


class TestBlame:
    def test_the_stale_row_is_stale_and_the_others_were_not_applied(self) -> None:
        assert outcomes(row_error("CHANGE_FROM_QUANTITY_STALE", 1), rows=3) == [
            ("not_applied", ""),
            ("stale", "CHANGE_FROM_QUANTITY_STALE"),
            ("not_applied", ""),
        ]

    def test_each_blamed_row_has_its_own_outcome(self) -> None:
        found = outcomes(row_error("NON_MUTABLE_INVENTORY_ITEM", 0), row_error("CHANGE_FROM_QUANTITY_STALE", 2), rows=3)

        assert found == [
            ("refused", "NON_MUTABLE_INVENTORY_ITEM"),
            ("not_applied", ""),
            ("stale", "CHANGE_FROM_QUANTITY_STALE"),
        ]

    @pytest.mark.parametrize("is_reversed", [False, True])
    def test_a_row_that_is_both_stale_and_impossible_is_refused(self, is_reversed: bool) -> None:
        errors = [row_error("CHANGE_FROM_QUANTITY_STALE", 0), row_error("INVALID_LOCATION", 0)]

        assert outcomes(*(errors[::-1] if is_reversed else errors), rows=1) == [("refused", "INVALID_LOCATION")]

    def test_an_error_without_a_row_leaves_every_row_to_be_found_by_halving(self) -> None:
        assert outcomes(error("NON_MUTABLE_INVENTORY_ITEM", "input"), rows=2) == [
            ("not_applied", "NON_MUTABLE_INVENTORY_ITEM"),
            ("not_applied", "NON_MUTABLE_INVENTORY_ITEM"),
        ]

    @pytest.mark.parametrize(
        ("code", "outcome"),
        [("NON_MUTABLE_INVENTORY_ITEM", "refused"), ("CHANGE_FROM_QUANTITY_STALE", "stale")],
    )
    def test_an_error_without_a_row_means_the_only_one(self, code: str, outcome: str) -> None:
        assert outcomes(error(code), rows=1) == [(outcome, code)]

    @pytest.mark.parametrize("index", ["7", "-1", "1e3", "\u0663", "99999999999", 7, -1, True])
    def test_a_row_that_was_not_sent_is_no_row(self, index: object) -> None:
        found = outcomes(error("INVALID_LOCATION", "input", "quantities", index), rows=2)

        assert found == [("not_applied", "INVALID_LOCATION")] * 2

    def test_a_spent_key_leaves_all_rows_unapplied(self) -> None:
        assert outcomes(error("IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED"), rows=1) == [
            ("not_applied", "IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED")
        ]

    def test_an_unknown_code_refuses_its_row_in_the_stores_words(self) -> None:
        payload = {"inventoryAdjustmentGroup": None, "userErrors": [row_error("BRAND_NEW", 0)]}

        result = read_write_result(payload, row_count=1)

        assert result.rows == (
            RowResult(RowOutcome.REFUSED, "BRAND_NEW", "The store refused it: as the store words it"),
        )


class TestTheWholeCall:
    def test_a_request_in_flight_is_to_be_repeated_under_its_key(self) -> None:
        with pytest.raises(OutcomeUnknown) as caught:
            outcomes(row_error("INVALID_LOCATION", 0), error("IDEMPOTENCY_CONCURRENT_REQUEST"), rows=1)

        assert (caught.value.code, caught.value.retry_after) == ("IDEMPOTENCY_CONCURRENT_REQUEST", 1.0)

    @pytest.mark.parametrize(
        "code",
        [
            "IDEMPOTENCY_KEY_PARAMETER_MISMATCH",
            "INVALID_REASON",
            "INVALID_REFERENCE_DOCUMENT",
            "INVALID_NAME",
        ],
    )
    def test_our_own_mistakes_refuse_the_call(self, code: str) -> None:
        with pytest.raises(Refused) as caught:
            outcomes(error(code), rows=3)

        assert caught.value.code == code

    @pytest.mark.parametrize("payload", [None, [], {}, {"userErrors": None}, {"userErrors": [None]}, "done"])
    def test_a_payload_that_makes_no_sense_leaves_the_outcome_open(self, payload: object) -> None:
        with pytest.raises(OutcomeUnknown):
            read_write_result(payload, row_count=1)


@pytest.mark.skipif(not REAL_SCHEMA.is_file(), reason="the real schema is not beside the repository")
def test_every_code_of_the_real_enums_has_a_meaning() -> None:
    schema = gzip.decompress(REAL_SCHEMA.read_bytes()).decode()
    enums = re.findall(
        r"^enum Inventory(?:Set|Adjust|Move|SetOnHand)QuantitiesUserErrorCode \{(.*?)^\}"
        r"|^enum InventoryBulkToggleActivationUserErrorCode \{(.*?)^\}",
        schema,
        re.MULTILINE | re.DOTALL,
    )
    codes = {
        code
        for bodies in enums
        for code in re.findall(
            r"^  ([A-Z][A-Z0-9_]+)\b",
            re.sub(r'""".*?"""', "", "".join(bodies), flags=re.DOTALL),
            re.MULTILINE,
        )
    }

    assert len(enums) == 5
    assert codes <= MEANINGS.keys()


def test_every_meaning_is_a_sentence_for_people() -> None:
    for code, meaning in MEANINGS.items():
        assert meaning.sentence.endswith("."), code
        assert code not in meaning.sentence
        assert isinstance(meaning.verdict, Verdict)

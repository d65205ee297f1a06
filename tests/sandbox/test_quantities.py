"""The run-time rules of inventory writes under 2026-10, which no schema tells."""

from __future__ import annotations

import pytest

from tests.sandbox.clients import SET, StoreClient, codes, new_key

UNKNOWN_ITEM = "gid://shopify/InventoryItem/1"
UNKNOWN_LOCATION = "gid://shopify/Location/1"


def test_setting_writes_available_and_reports_on_hand_as_well(store: StoreClient) -> None:
    payload = store.set([store.row("APPLE", 9, 5)], referenceDocumentUri="gid://synctec/Push/7")

    assert payload["userErrors"] == []
    group = payload["inventoryAdjustmentGroup"]
    assert [(c["name"], c["delta"], c["quantityAfterChange"]) for c in group["changes"]] == [
        ("available", 4, None),
        ("on_hand", 4, None),
    ]
    assert (group["reason"], group["referenceDocumentUri"]) == ("correction", "gid://synctec/Push/7")
    assert store.available("APPLE") == 9


def test_a_sale_in_between_makes_the_write_stale_and_survives(store: StoreClient) -> None:
    store.buy("APPLE", 1)

    payload = store.set([store.row("APPLE", 5, 5)])

    assert payload["inventoryAdjustmentGroup"] is None
    assert payload["userErrors"] == [
        {
            "field": ["input", "quantities", "0", "changeFromQuantity"],
            "message": "The changeFromQuantity argument no longer matches the persisted quantity.",
            "code": "CHANGE_FROM_QUANTITY_STALE",
        }
    ]
    assert store.available("APPLE") == 4


def test_null_opts_out_of_the_comparison(store: StoreClient) -> None:
    payload = store.set([store.row("APPLE", 1, None)])

    assert payload["userErrors"] == []
    assert store.available("APPLE") == 1


def test_one_bad_row_fails_the_whole_batch(store: StoreClient) -> None:
    payload = store.set([store.row("APPLE", 1, 5), store.row("PEAR", 1, 99)])

    assert codes(payload) == ["CHANGE_FROM_QUANTITY_STALE"]
    assert payload["userErrors"][0]["field"] == ["input", "quantities", "1", "changeFromQuantity"]
    assert store.available("APPLE") == 5


def test_leaving_out_change_from_quantity_is_an_error_of_the_request(store: StoreClient) -> None:
    row = store.row("APPLE", 1, None)
    del row["changeFromQuantity"]

    _, answer = store.send(SET, store.set_variables([row]))

    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "INVALID_FIELD_ARGUMENTS"
    assert error["message"] == "InventoryQuantityInput must include the following argument: changeFromQuantity."
    assert error["path"] == ["inventorySetQuantities"]
    assert answer["data"] == {"inventorySetQuantities": None}


def test_leaving_out_the_idempotency_key_is_an_error_of_the_request(store: StoreClient) -> None:
    query = """mutation Set($input: InventorySetQuantitiesInput!) {
      inventorySetQuantities(input: $input) { userErrors { code } } }"""
    variables = store.set_variables([store.row("APPLE", 1, 5)])

    _, answer = store.send(query, {"input": variables["input"]})

    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "BAD_REQUEST"
    assert error["message"] == "The @idempotent directive is required for this mutation but was not provided."
    assert error["path"] == ["inventorySetQuantities"]
    assert store.available("APPLE") == 5


def test_fields_of_older_versions_are_unknown(store: StoreClient) -> None:
    variables = store.set_variables([store.row("APPLE", 1, 5)], ignoreCompareQuantity=True)

    _, answer = store.send(SET, variables)

    assert answer["errors"][0]["extensions"]["code"] == "INVALID_VARIABLE"
    assert "ignoreCompareQuantity" in answer["errors"][0]["message"]
    assert "data" not in answer


@pytest.mark.parametrize(
    ("change", "field", "code"),
    [
        ({"inventoryItemId": UNKNOWN_ITEM}, "inventoryItemId", "INVALID_INVENTORY_ITEM"),
        ({"locationId": UNKNOWN_LOCATION}, "locationId", "INVALID_LOCATION"),
        ({"quantity": 1_000_000_001}, "quantity", "INVALID_QUANTITY_TOO_HIGH"),
        ({"quantity": -1_000_000_001}, "quantity", "INVALID_QUANTITY_TOO_LOW"),
    ],
)
def test_each_bad_value_has_its_code_and_field(
    store: StoreClient, change: dict[str, object], field: str, code: str
) -> None:
    payload = store.set([store.row("APPLE", 1, None) | change])

    assert codes(payload) == [code]
    assert payload["userErrors"][0]["field"] == ["input", "quantities", "0", field]
    assert store.available("APPLE") == 5


def test_available_may_be_set_below_zero_and_on_hand_may_not(store: StoreClient) -> None:
    below = store.set([store.row("APPLE", -5, 5)])
    on_hand = store.set([store.row("PEAR", -1, None)], name="on_hand")

    assert codes(below) == []
    assert store.available("APPLE") == -5
    assert codes(on_hand) == ["INVALID_QUANTITY_NEGATIVE"]


def test_setting_on_hand_moves_available_by_the_difference(store: StoreClient) -> None:
    store.buy("APPLE", 2)

    store.set([store.row("APPLE", 9, 5)], name="on_hand")

    level = store.level("APPLE")
    assert (level["available"], level["committed"], level["on_hand"]) == (7, 2, 9)


def test_only_available_and_on_hand_can_be_set(store: StoreClient) -> None:
    payload = store.set([store.row("APPLE", 1, 5)], name="committed")

    assert codes(payload) == ["INVALID_NAME"]
    assert payload["userErrors"][0]["field"] == ["input", "name"]


def test_reasons_are_a_closed_list(store: StoreClient) -> None:
    payload = store.set([store.row("APPLE", 1, 5)], reason="because")

    assert codes(payload) == ["INVALID_REASON"]
    assert "cycle_count_available" in payload["userErrors"][0]["message"]


def test_the_same_place_twice_is_an_error_of_both_rows(store: StoreClient) -> None:
    payload = store.set([store.row("APPLE", 1, 5), store.row("APPLE", 2, 5)])

    assert codes(payload) == ["NO_DUPLICATE_INVENTORY_ITEM_ID_GROUP_ID_PAIR"] * 2
    assert [e["field"][2] for e in payload["userErrors"]] == ["0", "1"]


def test_a_bundle_parent_cannot_be_written(store: StoreClient) -> None:
    store.add_variants([{"sku": "BASKET", "requires_components": True}])

    payload = store.set([store.row("APPLE", 1, 5), store.row("BASKET", 1, None)])

    assert codes(payload) == ["NON_MUTABLE_INVENTORY_ITEM"]
    assert payload["userErrors"][0]["field"] == ["input", "quantities", "1", "inventoryItemId"]
    assert store.available("APPLE") == 5


def test_more_than_250_rows_are_refused_as_a_whole(store: StoreClient) -> None:
    rows = [store.row("APPLE", 1, None)] * 251

    _, answer = store.send(SET, store.set_variables(rows))

    (error,) = answer["errors"]
    assert error["extensions"]["code"] == "MAX_INPUT_SIZE_EXCEEDED"
    assert error["message"] == "The input array size of 251 is greater than the maximum allowed of 250."


def test_setting_what_is_there_already_succeeds_without_a_group(store: StoreClient) -> None:
    payload = store.set([store.row("APPLE", 5, 5)])

    assert payload == {"inventoryAdjustmentGroup": None, "userErrors": []}


def test_setting_at_a_place_never_stocked_succeeds_and_does_not_activate_it(store: StoreClient) -> None:
    payload = store.set([store.row("PEAR", 4, None, "Back")])

    assert payload["userErrors"] == []
    level = store.level("PEAR", "Back")
    assert (level["active"], level["available"]) == (False, 4)


def test_setting_twice_at_an_inactive_place_without_comparison_adds(store: StoreClient) -> None:
    store.set([store.row("PEAR", 4, None, "Back")])

    store.set([store.row("PEAR", 4, None, "Back")])

    assert store.available("PEAR", "Back") == 8


# --- adjust and move ----------------------------------------------------------------------------------------


def adjustment(store: StoreClient, sku: str, delta: int, expected: int | None) -> dict[str, object]:
    row = store.row(sku, 0, expected)
    del row["quantity"]
    return row | {"delta": delta}


def test_adjusting_adds_the_delta(store: StoreClient) -> None:
    payload = store.adjust([adjustment(store, "APPLE", -2, 5)])

    assert payload["userErrors"] == []
    assert payload["inventoryAdjustmentGroup"]["changes"] == [
        {"name": "available", "delta": -2},
        {"name": "on_hand", "delta": -2},
    ]
    assert store.available("APPLE") == 3


def test_adjusting_compares_too(store: StoreClient) -> None:
    payload = store.adjust([adjustment(store, "APPLE", -2, 4)])

    assert codes(payload) == ["CHANGE_FROM_QUANTITY_STALE"]
    assert store.available("APPLE") == 5


def test_adjusting_by_nothing_succeeds_without_a_group(store: StoreClient) -> None:
    payload = store.adjust([adjustment(store, "APPLE", 0, 5)])

    assert payload == {"inventoryAdjustmentGroup": None, "userErrors": []}


def test_adjusting_other_states_needs_a_document_of_ones_own(store: StoreClient) -> None:
    without = store.adjust([adjustment(store, "APPLE", 1, None)], name="damaged")
    internal = store.adjust(
        [adjustment(store, "APPLE", 1, None) | {"ledgerDocumentUri": "gid://shopify/Order/1"}], name="damaged"
    )
    fine = store.adjust(
        [adjustment(store, "APPLE", 1, None) | {"ledgerDocumentUri": "gid://synctec/Count/1"}], name="damaged"
    )

    assert codes(without) == ["INVALID_QUANTITY_DOCUMENT"]
    assert codes(internal) == ["INTERNAL_LEDGER_DOCUMENT"]
    assert codes(fine) == []
    assert (store.level("APPLE")["available"], store.level("APPLE")["on_hand"]) == (5, 6)


def test_committed_cannot_be_adjusted(store: StoreClient) -> None:
    payload = store.adjust([adjustment(store, "APPLE", 1, None)], name="committed")

    assert payload["userErrors"][0]["field"] == ["input", "name"]
    assert store.level("APPLE")["committed"] == 0


def test_moving_changes_the_state_of_units_and_not_their_number(store: StoreClient) -> None:
    query = """mutation Move($input: InventoryMoveQuantitiesInput!, $key: String!) {
      inventoryMoveQuantities(input: $input) @idempotent(key: $key) { userErrors { field message code } } }"""
    row = store.row("APPLE", 2, 5)
    end = {"locationId": row["locationId"], "changeFromQuantity": None}
    change = {
        "inventoryItemId": row["inventoryItemId"],
        "quantity": 2,
        "from": end | {"name": "available"},
        "to": end | {"name": "damaged", "ledgerDocumentUri": "gid://synctec/Damage/1"},
    }
    input = {"reason": "damaged", "referenceDocumentUri": "gid://synctec/Damage/1", "changes": [change]}

    data = store.ask(query, {"input": input, "key": new_key()})

    assert data["inventoryMoveQuantities"]["userErrors"] == []
    assert (store.level("APPLE")["available"], store.level("APPLE")["on_hand"]) == (3, 5)


# --- activation ---------------------------------------------------------------------------------------------

ACTIVATE = """
mutation Activate($item: ID!, $location: ID!, $available: Int, $onHand: Int, $key: String!) {
  inventoryActivate(inventoryItemId: $item, locationId: $location, available: $available, onHand: $onHand)
    @idempotent(key: $key) { inventoryLevel { id isActive } userErrors { field message } }
}
"""
DEACTIVATE = """
mutation Deactivate($level: ID!) {
  inventoryDeactivate(inventoryLevelId: $level) { userErrors { field message } }
}
"""


def activate(store: StoreClient, sku: str, location: str, **more: object) -> dict[str, object]:
    variables = {"item": store.items[sku], "location": store.locations[location], "key": new_key()} | more
    return dict(store.ask(ACTIVATE, variables)["inventoryActivate"])


def test_activating_stocks_the_item_with_what_is_given(store: StoreClient) -> None:
    payload = activate(store, "PEAR", "Back", available=6)

    assert payload["userErrors"] == []
    assert (store.level("PEAR", "Back")["active"], store.available("PEAR", "Back")) == (True, 6)


def test_activating_keeps_the_numbers_of_before(store: StoreClient) -> None:
    level = store.level("APPLE", "Back")
    store.ask(DEACTIVATE, {"level": level["level_id"]})
    assert store.level("APPLE", "Back")["active"] is False

    activate(store, "APPLE", "Back")

    assert (store.level("APPLE", "Back")["active"], store.available("APPLE", "Back")) == (True, 3)


def test_an_active_place_takes_no_quantity_by_activation(store: StoreClient) -> None:
    payload = activate(store, "APPLE", "Back", available=6)

    assert payload["userErrors"] == [
        {
            "field": ["available"],
            "message": "Not allowed to set available quantity when the item is already active at the location.",
        }
    ]
    assert store.available("APPLE", "Back") == 3


def test_available_and_on_hand_exclude_each_other(store: StoreClient) -> None:
    payload = activate(store, "PEAR", "Back", available=6, onHand=6)

    assert [e["field"] for e in payload["userErrors"]] == [["available"], ["onHand"]]  # type: ignore[attr-defined]


def test_the_last_active_place_cannot_be_deactivated(store: StoreClient) -> None:
    level = store.level("PEAR")

    data = store.ask(DEACTIVATE, {"level": level["level_id"]})

    assert "at a minimum of 1 location" in data["inventoryDeactivate"]["userErrors"][0]["message"]
    assert store.level("PEAR")["active"] is True


def test_activation_errors_carry_no_code(store: StoreClient) -> None:
    _, answer = store.send("""mutation { inventoryDeactivate(inventoryLevelId: "x") { userErrors { code } } }""")

    assert answer["errors"][0]["message"] == "Field 'code' doesn't exist on type 'UserError'"
    assert answer["errors"][0]["extensions"]["code"] == "undefinedField"

from sync.measure import Change, measure

STORES = ("north", "south", "east")


def sale(store: str, at_ms: int, available: int, quantity: int = 1) -> Change:
    return Change(store, "MUG", at_ms * 1000, -quantity, available, is_sale=True)


def push(store: str, at_ms: int, delta: int, available: int) -> Change:
    return Change(store, "MUG", at_ms * 1000, delta, available, is_sale=False)


def test_the_latency_of_a_sale_ends_with_the_last_store_that_shows_it() -> None:
    changes = [sale("north", 0, 9), push("south", 100, -1, 9), push("east", 250, -1, 9)]

    measured = measure(changes, STORES)

    assert (measured.sales, measured.unreflected, measured.latencies_ms) == (1, 0, (250.0,))


def test_two_sales_in_one_push_are_both_reflected_by_it() -> None:
    changes = [sale("north", 0, 9), sale("east", 50, 9), push("south", 200, -2, 8), push("east", 210, -1, 8)]
    changes.append(push("north", 220, -1, 8))

    measured = measure(changes, STORES)

    assert sorted(measured.latencies_ms) == [170.0, 210.0]


def test_a_stores_own_sale_does_not_pass_for_anothers() -> None:
    changes = [sale("north", 0, 9), sale("south", 10, 9), push("east", 50, -2, 8), push("north", 60, -1, 8)]

    measured = measure(changes, STORES)

    assert (measured.sales, measured.unreflected) == (2, 1)


def test_a_store_that_shows_nothing_any_more_reflects_every_sale() -> None:
    changes = [sale("north", 0, 1, quantity=9), push("south", 40, -8, 0), push("east", 45, -8, 0)]

    assert measure(changes, STORES).latencies_ms == (45.0,)


def test_a_sale_in_a_store_that_is_not_asked_about_counts_for_the_others() -> None:
    changes = [sale("north", 0, 9), push("south", 40, -1, 9), push("east", 300, -1, 9)]

    assert measure(changes, ("south",)).latencies_ms == (40.0,)


def test_percentiles_are_of_the_sales_measured() -> None:
    changes = [change for n in range(100) for change in _sold(n)]

    measured = measure(changes, ("north", "south"))

    assert (measured.percentile(0.5), measured.percentile(0.99), measured.percentile(1.0)) == (51.0, 100.0, 100.0)


def _sold(n: int) -> list[Change]:
    at_us = n * 10_000_000
    return [
        Change("north", f"S{n}", at_us, -1, 5, is_sale=True),
        Change("south", f"S{n}", at_us + (n + 1) * 1000, -1, 5, is_sale=False),
    ]

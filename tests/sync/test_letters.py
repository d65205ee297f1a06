"""Dead letters: what is given up is found, says why and what to do, and ends by itself when its cause is gone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from channels.models import (
    Channel,
    ChannelState,
    Credential,
    EventState,
    InboxEvent,
    Listing,
    ListingLevel,
    PushBatch,
)
from channels.protocol import NotAuthorized, Unavailable
from merchants.models import AuditEvent, User
from sync import jobs, letters, remedies
from sync.apply import CLAIMS_MAX, apply_batch
from sync.invariants import violations
from sync.models import Attempt, DeadLetter, FailureCause, Job, JobState, LetterState
from sync.push import push_channel
from sync.tables import letters as rows
from synctec.lib import sql
from synctec.lib.backoff import MAX_ATTEMPTS
from tests.engine import engine, ref
from tests.factories import NOON, Shop, Trade, deliver, make_trade, order_body
from tests.fakes import FakeChannel

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def apply_all(trade: Trade, stores: Any = None, times: int = 1) -> None:
    for _ in range(times):
        InboxEvent.objects.filter(state=EventState.PENDING).update(next_attempt_at=Now())
        apply_batch(engine(stores=stores), merchant_id=trade.merchant.pk)


def want(shop: Shop, code: str, desired: int) -> None:
    ListingLevel.objects.filter(listing=shop.listings[code]).update(desired=desired, next_push_at=Now())


def push(shop: Shop, store: FakeChannel) -> None:
    Channel.objects.filter(pk=shop.channel.pk).update(next_call_at=Now())
    PushBatch.objects.filter(state__in=["intent", "unknown"]).update(next_attempt_at=Now())
    push_channel(engine(stores={shop.channel: store}), channel=ref(shop.channel))


def the_letter() -> DeadLetter:
    return DeadLetter.objects.get(ended_at=None)


# --- events -------------------------------------------------------------------------------------------------------


def test_an_event_that_dies_has_its_letter_at_once(alder: Trade) -> None:
    event = deliver(alder.shops["north"], "orders/create", b'{"id": 7}')

    apply_all(alder)

    letter = the_letter()
    assert (letter.event_id, letter.cause, letter.state) == (event.pk, FailureCause.UNREADABLE, LetterState.OPEN)
    assert letter.correlation_id == event.correlation_id
    assert letter.said.startswith("malformed: ")
    assert letter.code == letter.said.removeprefix("malformed: ")[:80]
    [tried] = letters.attempts(letter)
    assert (tried.number, tried.request, tried.answer) == (1, "apply orders/create", letter.said)
    assert tried.seconds is not None
    assert tried.seconds >= 0


def test_letter_and_death_stand_or_fall_together(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    event = deliver(alder.shops["north"], "orders/create", b"{}")

    def fail(event_ids: Any) -> None:
        raise IntegrityError("no letter today")

    monkeypatch.setattr(rows, "open_for_events", fail)
    with pytest.raises(IntegrityError):
        apply_all(alder)

    event.refresh_from_db()
    assert event.state == EventState.PENDING
    assert not DeadLetter.objects.exists()


def test_every_attempt_is_written_down_as_it_happens(alder: Trade, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver(alder.shops["north"], "orders/create", order_body(alder.shops["north"], 1, ("MUG", 1)))
    monkeypatch.setattr("sync.apply.decide", lambda *_: 1 / 0)

    for attempt in range(1, CLAIMS_MAX + 1):
        apply_all(alder)
        assert Attempt.objects.count() == attempt

    letter = the_letter()
    assert (letter.cause, letter.attempts, letter.code) == (
        FailureCause.BUG,
        CLAIMS_MAX,
        "ZeroDivisionError: division by zero",
    )
    assert [tried.number for tried in letters.attempts(letter)] == [6, 5, 4, 3, 2, 1]


def test_a_poison_event_keeps_nobody_from_its_sku(alder: Trade) -> None:
    north = alder.shops["north"]
    poison = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    InboxEvent.objects.filter(pk=poison.pk).update(attempts=1_000)
    deliver(north, "orders/create", order_body(north, 2, ("MUG", 1)))

    apply_all(alder)

    assert (the_letter().event_id, the_letter().cause) == (poison.pk, FailureCause.POISON)
    assert letters.attempts(the_letter())[0].seconds is None
    assert alder.stock("MUG").committed == 1


def test_an_event_that_died_unseen_is_found_by_the_sweep(alder: Trade) -> None:
    event = deliver(alder.shops["north"], "orders/create", b"{}")
    InboxEvent.objects.filter(pk=event.pk).update(
        state=EventState.DEAD, reason="failed 6 times: Refused: no access to order 77", settled_at=NOON
    )

    letters.keep()
    letters.keep()

    letter = the_letter()
    assert (letter.cause, letter.code) == (FailureCause.REFUSED, "Refused: no access to order #")


def test_a_dead_event_without_a_letter_is_found_by_the_audit(alder: Trade) -> None:
    def broken() -> set[str]:
        return {violation.name for violation in violations(when_quiet=True)}

    event = deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)
    assert broken() == {"nothing_is_dead"}

    DeadLetter.objects.filter(event=event).delete()

    assert broken() == {"nothing_is_dead", "the_dead_have_letters"}


def test_a_letter_ends_when_its_event_is_applied_whoever_had_it_replayed(alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    InboxEvent.objects.update(state=EventState.DEAD, reason="failed 6 times: KeyError: 1", settled_at=NOON)
    letters.keep()
    InboxEvent.objects.update(state=EventState.PENDING, reason="", attempts=0, settled_at=None)

    letters.keep()
    assert the_letter().state == LetterState.RETRIED
    apply_all(alder)
    letters.keep()

    letter = DeadLetter.objects.get(event=event)
    assert (letter.state, letter.outcome) == (LetterState.RECOVERED, "applied")
    assert letter.ended_at is not None


def test_a_letter_whose_event_was_removed_is_over(alder: Trade) -> None:
    deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)
    InboxEvent.objects.all().delete()

    letters.keep()

    assert DeadLetter.objects.get().state == LetterState.RECOVERED


def test_an_event_whose_body_is_gone_says_so(alder: Trade) -> None:
    deliver(alder.shops["north"], "orders/create", b"{}")
    sql.execute("DELETE FROM channels_inboxbody")

    apply_all(alder)

    assert the_letter().cause == FailureCause.UNREADABLE
    assert remedies.remedy(the_letter().cause, the_letter().code).title == "The message is gone"


def test_what_dies_again_opens_its_letter_again(alder: Trade) -> None:
    deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)

    letters.retry(letter=the_letter())
    assert the_letter().state == LetterState.RETRIED
    apply_all(alder)

    letter = the_letter()
    assert (letter.state, letter.retries) == (LetterState.OPEN, 1)
    assert len(letters.attempts(letter)) == 2


def test_events_a_store_refused_are_tried_again_when_it_lets_us_in_anew(alder: Trade) -> None:
    north = alder.shops["north"]
    Credential.objects.create(merchant=alder.merchant, channel=north.channel)
    deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    InboxEvent.objects.update(state=EventState.DEAD, reason="failed 6 times: Refused: scope missing", settled_at=NOON)
    letters.keep()
    letters.keep()
    assert the_letter().state == LetterState.OPEN

    Credential.objects.update(updated_at=Now() + timedelta(seconds=1))
    letters.keep()

    assert the_letter().state == LetterState.RETRIED
    assert InboxEvent.objects.get().state == EventState.PENDING


# --- levels -------------------------------------------------------------------------------------------------------


def test_a_refused_write_makes_a_letter_that_ends_when_it_is_confirmed(alder: Trade) -> None:
    north = alder.shops["north"]
    store = FakeChannel.of(north)
    store.refused.add(store.where(north, "MUG"))
    want(north, "MUG", 7)

    push(north, store)
    letters.keep()

    letter = the_letter()
    assert (letter.listing_level_id, letter.cause, letter.code) == (
        north.level("MUG").pk,
        FailureCause.REFUSED,
        "NON_MUTABLE_INVENTORY_ITEM",
    )
    [tried] = letters.attempts(letter)
    assert (tried.request, tried.answer) == ("set 10 to 7", "NON_MUTABLE_INVENTORY_ITEM: refused")
    assert tried.seconds is not None
    assert letters.subject(letter) == "MUG at Shop floor"

    store.refused.clear()
    ListingLevel.objects.update(next_push_at=Now())
    letters.keep()
    assert the_letter().state == LetterState.OPEN  # until the store has said yes
    push(north, store)
    letters.keep()

    assert DeadLetter.objects.get().state == LetterState.RECOVERED


def test_a_row_that_only_failed_along_with_others_makes_none(alder: Trade) -> None:
    north = alder.shops["north"]
    store = FakeChannel.of(north)
    store.refused.add(store.where(north, "MUG"))
    want(north, "MUG", 7)
    want(north, "TEE", 3)

    push(north, store)
    letters.keep()

    assert the_letter().listing_level_id == north.level("MUG").pk


def test_a_channel_in_outage_makes_letters_that_empty_themselves(alder: Trade) -> None:
    north = alder.shops["north"]
    store = FakeChannel.of(north)
    store.faults = [Unavailable("HTTP 500")] * (MAX_ATTEMPTS + 1)
    want(north, "MUG", 7)

    for _ in range(MAX_ATTEMPTS):
        push(north, store)
    letters.keep()
    assert not DeadLetter.objects.exists()
    push(north, store)
    letters.keep()

    letter = the_letter()
    assert (letter.cause, letter.attempts, letter.said) == (FailureCause.CHANNEL_AWAY, 6, "HTTP 500")
    assert [tried.answer for tried in letters.attempts(letter)] == ["HTTP 500"] * 6
    push(north, store)
    letters.keep()
    assert DeadLetter.objects.get().state == LetterState.RECOVERED


def test_a_channel_that_needs_authorization_makes_letters_until_it_has_it(alder: Trade) -> None:
    north = alder.shops["north"]
    store = FakeChannel.of(north)
    store.faults = [NotAuthorized("token revoked")]
    want(north, "MUG", 7)

    push(north, store)
    letters.keep()
    assert the_letter().cause == FailureCause.NOT_AUTHORIZED

    Channel.objects.filter(pk=north.channel.pk).update(state=ChannelState.ACTIVE, failures=0)
    push(north, store)
    letters.keep()
    assert DeadLetter.objects.get().state == LetterState.RECOVERED


def test_a_write_whose_outcome_stays_unknown_makes_a_letter(alder: Trade) -> None:
    north = alder.shops["north"]
    store = FakeChannel.of(north)
    store.faults = ["lost after"] * (MAX_ATTEMPTS + 1)
    want(north, "MUG", 7)

    for _ in range(MAX_ATTEMPTS + 1):
        push(north, store)
    letters.keep()

    letter = the_letter()
    assert letter.cause == FailureCause.UNKNOWN_OUTCOME
    assert [tried.number for tried in letters.attempts(letter)] == [6, 5, 4, 3, 2, 1]
    assert {tried.answer for tried in letters.attempts(letter)} == {"no answer"}
    push(north, store)
    letters.keep()
    assert DeadLetter.objects.get().state == LetterState.RECOVERED


@pytest.mark.parametrize("state", [ChannelState.PAUSED, ChannelState.UNINSTALLED])
def test_a_channel_that_is_not_to_be_written_to_makes_none(alder: Trade, state: str) -> None:
    north = alder.shops["north"]
    want(north, "MUG", 7)
    Channel.objects.filter(pk=north.channel.pk).update(state=state, failures=9)

    letters.keep()

    assert not DeadLetter.objects.exists()


def test_a_level_that_is_not_written_any_more_has_no_letter(alder: Trade) -> None:
    north = alder.shops["north"]
    want(north, "MUG", 7)
    Channel.objects.filter(pk=north.channel.pk).update(failures=9)
    letters.keep()
    assert the_letter().cause == FailureCause.CHANNEL_AWAY

    Listing.objects.filter(pk=north.listings["MUG"].pk).update(deleted_at=NOON)
    letters.keep()

    assert DeadLetter.objects.get().outcome == "the store takes no number for it any more"


def test_a_letter_changes_its_cause_with_the_trouble(alder: Trade) -> None:
    north = alder.shops["north"]
    want(north, "MUG", 7)
    Channel.objects.filter(pk=north.channel.pk).update(failures=9)
    letters.keep()

    Channel.objects.filter(pk=north.channel.pk).update(state=ChannelState.NEEDS_AUTH, state_reason="token expired")
    letters.keep()

    assert (the_letter().cause, the_letter().said) == (FailureCause.NOT_AUTHORIZED, "token expired")
    assert DeadLetter.objects.count() == 1


def test_trying_a_refused_level_again_waits_for_no_pause(alder: Trade) -> None:
    north = alder.shops["north"]
    store = FakeChannel.of(north)
    store.refused.add(store.where(north, "MUG"))
    want(north, "MUG", 7)
    push(north, store)
    letters.keep()

    assert letters.retry(letter=the_letter()) == [north.channel.pk]
    letters.keep()
    assert the_letter().state == LetterState.RETRIED
    push(north, store)
    letters.keep()

    assert (the_letter().state, the_letter().retries) == (LetterState.OPEN, 1)
    assert len(store.writes) == 2


# --- what people do -----------------------------------------------------------------------------------------------


@pytest.fixture
def letter(alder: Trade) -> DeadLetter:
    deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)
    return the_letter()


def test_what_was_dismissed_stays_dismissed_and_can_be_reopened(alder: Trade, letter: DeadLetter) -> None:
    user = User.objects.create_user(username="u", email="u@synctec.test", password="x")

    letters.dismiss(letter=letter, reason="a test order", user=user, now=NOON)
    letters.keep()

    letter.refresh_from_db()
    assert (letter.state, letter.dismissed_by, letter.dismissed_because) == (
        LetterState.DISMISSED,
        user,
        "a test order",
    )
    assert DeadLetter.objects.count() == 1
    assert AuditEvent.objects.get(action="letter.dismiss").reason == "a test order"
    with pytest.raises(letters.CannotChange, match="Reopen it first"):
        letters.retry(letter=letter)

    letters.reopen(letter=letter, user=user)

    assert the_letter().state == LetterState.OPEN
    assert AuditEvent.objects.filter(action="letter.reopen").exists()


def test_a_dismissal_needs_a_reason(letter: DeadLetter) -> None:
    with pytest.raises(letters.CannotChange, match="Say why"):
        letters.dismiss(letter=letter, reason="  ", now=NOON)

    assert the_letter().state == LetterState.OPEN


def test_a_dismissed_letter_whose_trouble_is_over_leaves_room_for_a_new_one(alder: Trade, letter: DeadLetter) -> None:
    letters.dismiss(letter=letter, reason="later", now=NOON)
    InboxEvent.objects.update(state=EventState.IGNORED, reason="superseded")
    letters.keep()
    with pytest.raises(letters.CannotChange, match="not over"):
        letters.reopen(letter=letter)
    InboxEvent.objects.update(state=EventState.DEAD, reason="malformed: anew")

    letters.keep()

    assert the_letter().pk != letter.pk
    letter.refresh_from_db()
    assert letter.state == LetterState.DISMISSED


def test_there_is_one_living_letter_about_a_thing(letter: DeadLetter) -> None:
    with pytest.raises(IntegrityError, match="dead_letter_once_per_event"), transaction.atomic():
        DeadLetter.objects.create(
            merchant_id=letter.merchant_id, channel_id=letter.channel_id, event_id=letter.event_id, cause="bug"
        )


def test_groups_are_by_channel_cause_and_code(alder: Trade) -> None:
    north, south = alder.shops["north"], alder.shops["south"]
    for shop, count in ((north, 3), (south, 1)):
        for _ in range(count):
            deliver(shop, "orders/create", b"{}")
    deliver(north, "orders/create", b"[]")
    apply_all(alder)

    found = letters.groups(alder.merchant.pk)

    assert [(group.channel, group.open) for group in found] == [
        (north.channel, 3),
        (north.channel, 1),
        (south.channel, 1),
    ]
    assert found[0].remedy.title == "The message cannot be read"
    assert found[0].example.channel == north.channel
    assert letters.groups(make_trade("Birch").merchant.pk) == []


@pytest.mark.parametrize("cause", FailureCause.values)
def test_every_cause_says_what_it_means_and_what_to_do(cause: str) -> None:
    remedy = remedies.remedy(cause)

    assert remedy.explanation
    assert remedy.action
    assert bool(remedy.page) == bool(remedy.button)


# --- many at once -------------------------------------------------------------------------------------------------


def bury(trade: Trade, count: int) -> None:
    """So many orders that died of a mistake that is mended by now."""
    north = trade.shops["north"]
    for order in range(count):
        deliver(north, "orders/create", order_body(north, order + 1, ("MUG", 1)))
    InboxEvent.objects.update(state=EventState.DEAD, reason="failed 6 times: KeyError: 1", settled_at=NOON)
    letters.keep()


def work_off(job: Job, trade: Trade) -> Job:
    """What workers do: the job's batches, and the events they ask for."""
    for _ in range(50):
        Job.objects.update(next_attempt_at=Now() - timedelta(minutes=1))
        worked = jobs.work(job_id=job.pk)
        if worked is None or worked.is_over:
            break
        apply_all(trade)
    job.refresh_from_db()
    return job


def test_a_group_is_tried_again_as_a_job_that_tells_what_came_of_it(alder: Trade) -> None:
    bury(alder, 3)
    deliver(alder.shops["south"], "orders/create", b"{}")
    apply_all(alder)
    said = {"channel": alder.shops["north"].channel.pk, "cause": "bug", "code": "KeyError: #"}

    assert jobs.preview(merchant_id=alder.merchant.pk, kind="retry_letters", said=said).words == (
        "3 events of 1 channels will be tried again."
    )
    job = jobs.create(merchant_id=alder.merchant.pk, kind="retry_letters", said=said)
    work_off(job, alder)

    assert (job.state, job.total, job.done, job.changed) == (JobState.DONE, 3, 3, 3)
    assert job.result == "3 tried again: 3 recovered."
    assert alder.stock("MUG").committed == 3
    assert the_letter().channel == alder.shops["south"].channel


def test_what_fails_again_is_said(alder: Trade) -> None:
    for _ in range(2):
        deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)

    job = work_off(jobs.create(merchant_id=alder.merchant.pk, kind="retry_letters", said={}), alder)

    assert job.result == "2 tried again: 0 recovered, 2 failed again."
    assert DeadLetter.objects.filter(state=LetterState.OPEN, retries=1).count() == 2


def test_only_those_since_a_moment_are_tried_again(alder: Trade) -> None:
    bury(alder, 2)
    old = DeadLetter.objects.earliest("pk")
    DeadLetter.objects.filter(pk=old.pk).update(opened_at=Now() - timedelta(hours=2))
    since = (old.opened_at - timedelta(hours=1)).isoformat()

    job = work_off(jobs.create(merchant_id=alder.merchant.pk, kind="retry_letters", said={"since": since}), alder)

    assert job.total == 1
    assert the_letter().pk == old.pk


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"channel": "abc"}, "channel"),
        ({"channel": "999999"}, "channel"),
        ({"cause": "bad luck"}, "cause"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-11-20T12:00:00"}, "since"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_by_name(alder: Trade, said: dict[str, str], field: str) -> None:
    with pytest.raises(jobs.BadParameters) as refused:
        jobs.create(merchant_id=alder.merchant.pk, kind="retry_letters", said=said)

    assert refused.value.name == field
    assert not Job.objects.exists()


def test_another_merchants_channel_is_none(alder: Trade) -> None:
    birch = make_trade("Birch")

    with pytest.raises(jobs.BadParameters, match="one of yours"):
        jobs.create(
            merchant_id=birch.merchant.pk,
            kind="retry_letters",
            said={"channel": alder.shops["north"].channel.pk},
        )


def test_a_batch_of_letters_takes_as_many_statements_however_large_it_is(
    alder: Trade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes the recovery of ten thousand a matter of seconds."""
    told: list[str] = []
    execute = sql._PreparingCursor.execute

    def counted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        told.append(query)
        return execute(self, query, *arguments, **options)

    monkeypatch.setattr(sql._PreparingCursor, "execute", counted)

    def statements() -> int:
        told.clear()
        with CaptureQueriesContext(connection) as captured:
            assert jobs.work(job_id=job.pk) is not None
        return len(captured) + len(told)

    bury(alder, 2)
    job = jobs.create(merchant_id=alder.merchant.pk, kind="retry_letters", said={})
    few = statements()
    bury(alder, 60)
    job = jobs.create(merchant_id=alder.merchant.pk, kind="retry_letters", said={})

    assert statements() == few
    assert few <= 16
    assert DeadLetter.objects.filter(retried_by_job=job).count() == job.total


def test_old_attempts_are_forgotten_but_those_of_living_letters(alder: Trade, letter: DeadLetter) -> None:
    event = deliver(alder.shops["south"], "orders/create", b"{}")
    Attempt.objects.create(
        merchant=alder.merchant,
        channel=alder.shops["south"].channel,
        event=event,
        number=1,
        ended_at=NOON,
        answer="long ago",
    )
    Attempt.objects.update(ended_at=Now() - rows.ATTEMPTS_KEPT - timedelta(days=1))

    letters.keep()

    assert Attempt.objects.get().event_id == letter.event_id

"""The pages of dead letters, the event log, jobs and reading again: what they show, to whom, and what their buttons do."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.db.models.functions import Now
from django.test import Client
from django.urls import reverse

from channels.models import Channel, EventState, InboxEvent, ListingLevel
from merchants.models import AuditEvent, Member, Role, User
from sync import jobs, letters
from sync.models import DeadLetter, Job, JobState, LetterState
from tests.factories import NOON, Trade, deliver, make_trade, order_body
from tests.sync.test_letters import apply_all

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def alder() -> Trade:
    return make_trade()


def seat(client: Client, trade: Trade, role: Role, *, is_staff: bool = False) -> User:
    name = f"{role}-{trade.merchant.slug}"
    user = User.objects.create_user(username=name, email=f"{name}@synctec.test", password="x", is_staff=is_staff)
    Member.objects.create(merchant=trade.merchant, user=user, role=role)
    client.force_login(user)
    return user


@pytest.fixture
def manager(client: Client, alder: Trade) -> User:
    return seat(client, alder, Role.MANAGER)


@pytest.fixture
def dead(alder: Trade) -> DeadLetter:
    deliver(alder.shops["north"], "orders/create", b"{}")
    apply_all(alder)
    return DeadLetter.objects.get()


def shown(client: Client, path: str, **query: Any) -> str:
    answer = client.get(path, query)
    assert answer.status_code == 200
    return str(answer.content.decode())


def fields(page: str) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))


# --- dead letters -------------------------------------------------------------------------------------------


def test_an_empty_page_says_so_kindly(client: Client, manager: User) -> None:
    assert "Nothing waits for you" in shown(client, reverse("dead_letters"))


def test_what_waits_is_shown_by_cause_with_what_to_do(client: Client, manager: User, dead: DeadLetter) -> None:
    page = shown(client, reverse("dead_letters"))

    assert "1 needs somebody" in page
    assert "The message cannot be read" in page
    assert "If the store changed its form" in page
    assert "North" in page


def test_a_group_is_counted_before_it_is_tried_again(client: Client, manager: User, dead: DeadLetter) -> None:
    page = shown(client, reverse("dead_letters"))
    [link] = re.findall(r'href="(/dead-letters/retry/[^"]*)"', page)

    preview = shown(client, link.replace("&amp;", "&"))
    assert "1 events of 1 channels will be tried again." in preview
    assert not Job.objects.exists()
    answer = client.post(reverse("retry_letters"), fields(preview) | {"why": "mended"})

    job = Job.objects.get()
    assert answer.headers["Location"] == reverse("job", args=[job.pk])
    assert (job.created_by, job.total, job.parameters["cause"]) == (manager, 1, "unreadable")
    assert AuditEvent.objects.get(action="job.start").reason == "mended"


def test_only_what_was_opened_of_late_is_counted(client: Client, manager: User, dead: DeadLetter) -> None:
    DeadLetter.objects.update(opened_at=Now() - timedelta(hours=3))

    assert "Nothing to do" in shown(client, reverse("retry_letters"), hours="1")
    assert "1 events" in shown(client, reverse("retry_letters"), hours="24")
    assert "1 events" in shown(client, reverse("retry_letters"), hours="")


def test_a_letter_shows_what_it_went_through(client: Client, manager: User, dead: DeadLetter) -> None:
    page = shown(client, reverse("dead_letter", args=[dead.pk]))

    assert "apply orders/create" in page
    assert str(dead.correlation_id) in page
    assert reverse("story", args=[dead.correlation_id]) in page


def test_a_letter_of_a_level_names_it(client: Client, manager: User, alder: Trade) -> None:
    north = alder.shops["north"]
    ListingLevel.objects.filter(pk=north.level("MUG").pk).update(desired=3)
    Channel.objects.filter(pk=north.channel.pk).update(failures=9, last_error="HTTP 500")
    letters.keep()

    page = shown(client, reverse("dead_letter", args=[DeadLetter.objects.get().pk]))

    assert "MUG at Shop floor" in page
    assert "HTTP 500" in page
    group = shown(client, reverse("letter_group"), channel=str(north.channel.pk), cause="channel_away", code="")
    assert "MUG at Shop floor" in group


def test_a_letter_is_tried_again_dismissed_and_reopened(client: Client, manager: User, dead: DeadLetter) -> None:
    def press(act: str, **said: str) -> Any:
        return client.post(reverse("act_on_letter", args=[dead.pk, act]), said)

    def state() -> str:
        dead.refresh_from_db()
        return dead.state

    assert press("dismiss", reason=" ").status_code == 409
    assert state() == LetterState.OPEN
    assert press("dismiss", reason="a test").status_code == 302
    assert (state(), dead.dismissed_by) == (LetterState.DISMISSED, manager)
    assert "a test" in shown(client, reverse("dead_letters"))
    assert press("reopen").status_code == 302
    assert state() == LetterState.OPEN
    assert press("retry").status_code == 302
    assert state() == LetterState.RETRIED
    assert "being tried again" in client.post(reverse("act_on_letter", args=[dead.pk, "retry"])).content.decode()
    assert press("explode").status_code == 404


# --- the event log ------------------------------------------------------------------------------------------


def test_events_are_listed_found_and_replayed_after_a_preview(client: Client, manager: User, alder: Trade) -> None:
    north = alder.shops["north"]
    event = deliver(north, "orders/create", order_body(north, 1, ("MUG", 1)))
    deliver(north, "orders/create", order_body(north, 2, ("TEE", 1)))
    apply_all(alder)
    assert shown(client, reverse("events")).count("<tr><td>") == 2

    page = shown(client, reverse("events"), about="#1")
    assert page.count("<tr><td>") == 1
    [link] = re.findall(r'href="(/events/replay/[^"]*)"', page)
    preview = shown(client, link.replace("&amp;", "&"))
    assert "1 events will be applied again (1 applied)." in preview
    client.post(reverse("replay"), fields(preview))

    job = Job.objects.get()
    jobs.work(job_id=job.pk)
    event.refresh_from_db()
    assert event.state == EventState.PENDING


def test_times_are_by_the_merchants_clock(client: Client, manager: User, alder: Trade) -> None:
    alder.merchant.timezone = "America/New_York"
    alder.merchant.save()
    event = deliver(alder.shops["north"], "orders/create", b"{}")
    InboxEvent.objects.filter(pk=event.pk).update(received_at=NOON)  # seven in the morning there

    assert shown(client, reverse("events"), since="2026-11-20T06:00", until="2026-11-20T08:00").count("<tr><td>") == 1
    assert "No event fits" in shown(client, reverse("events"), since="2026-11-20T08:00")


@pytest.mark.parametrize(
    "query",
    [
        {"ids": "x"},
        {"channel": "nope"},
        {"states": "pending"},
        {"since": "yesterday"},
        {"since": "2026-13-77T99:99"},
        {"ids": "9" * 30},
    ],
)
def test_a_filter_that_cannot_be_is_explained(client: Client, manager: User, query: dict[str, str]) -> None:
    for page in ("events", "replay"):
        answer = client.get(reverse(page), query)

        assert answer.status_code == 400
        assert 'class="problem"' in answer.content.decode()


# --- jobs and reading again -----------------------------------------------------------------------------------


def test_a_job_shows_its_progress_and_is_cancelled(client: Client, manager: User, dead: DeadLetter) -> None:
    job = jobs.create(merchant_id=dead.merchant_id, kind="retry_letters", said={})
    path = reverse("job", args=[job.pk])
    assert "hx-get" in shown(client, path)
    part = client.get(path, headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert "0 of 1" in part

    assert client.post(reverse("cancel_job", args=[job.pk])).status_code == 302
    jobs.work(job_id=job.pk)

    page = shown(client, path)
    assert "Cancelled after 0 of 1." in page
    assert "hx-get" not in page
    assert "Try dead letters again" in shown(client, reverse("jobs"))


def test_a_sku_is_read_again(client: Client, manager: User, alder: Trade) -> None:
    page = client.post(reverse("resync"), {"sku": "MUG", "why": "looks wrong"})

    assert "2 listing levels will be read" in page.content.decode()
    assert ListingLevel.objects.exclude(suspect_since=None).count() == 2
    assert {event.reason for event in AuditEvent.objects.filter(action="listing_level.resync")} == {"looks wrong"}


@pytest.mark.parametrize("said", [{}, {"sku": "NOPE"}, {"channel": "x"}, {"group": "9" * 30}])
def test_what_cannot_be_read_is_explained(client: Client, manager: User, said: dict[str, str]) -> None:
    answer = client.post(reverse("resync"), said)

    assert answer.status_code == 400
    assert 'class="problem"' in answer.content.decode()


# --- who may --------------------------------------------------------------------------------------------------


def test_another_merchants_pages_do_not_exist(client: Client, dead: DeadLetter) -> None:
    birch = make_trade("Birch")
    seat(client, birch, Role.OWNER)
    job = jobs.create(merchant_id=dead.merchant_id, kind="retry_letters", said={})

    assert client.get(reverse("dead_letter", args=[dead.pk])).status_code == 404
    assert client.post(reverse("act_on_letter", args=[dead.pk, "retry"])).status_code == 404
    assert client.get(reverse("job", args=[job.pk])).status_code == 404
    assert client.post(reverse("cancel_job", args=[job.pk])).status_code == 404
    assert "Nothing waits for you" in shown(client, reverse("dead_letters"))
    assert "No event fits" in shown(client, reverse("events"))
    assert client.post(reverse("retry_letters"), {"channel": dead.channel_id, "sure": "yes"}).status_code == 400
    assert client.get(reverse("dead_letters"), {"merchant": "alder"}).status_code == 404


def test_a_viewer_sees_and_presses_nothing(client: Client, alder: Trade, dead: DeadLetter) -> None:
    seat(client, alder, Role.VIEWER)
    job = jobs.create(merchant_id=dead.merchant_id, kind="retry_letters", said={})

    assert "/dead-letters/retry/" not in shown(client, reverse("dead_letters"))
    assert "<button" not in shown(client, reverse("dead_letter", args=[dead.pk])).split("<main")[1]
    assert "Cancel" not in shown(client, reverse("job", args=[job.pk]))
    for name, arguments in (
        ("retry_letters", []),
        ("replay", []),
        ("resync", []),
        ("act_on_letter", [dead.pk, "retry"]),
        ("cancel_job", [job.pk]),
    ):
        assert client.post(reverse(name, args=arguments)).status_code == 403
    job.refresh_from_db()
    dead.refresh_from_db()
    assert (job.state, dead.state) == (JobState.WAITING, LetterState.OPEN)


@pytest.mark.parametrize("name", ["dead_letters", "events", "jobs", "resync", "retry_letters", "replay"])
def test_whoever_is_not_signed_in_is_asked_to(client: Client, name: str) -> None:
    answer = client.get(reverse(name))

    assert answer.status_code == 302
    assert "login" in answer.headers["Location"]


# --- the admin ------------------------------------------------------------------------------------------------


def test_the_admin_has_the_same_buttons(client: Client, alder: Trade, dead: DeadLetter) -> None:
    seat(client, alder, Role.MANAGER, is_staff=True)

    def press(button: str, **said: str) -> str:
        answer = client.post(reverse(f"admin:sync_deadletter_{button}", args=[dead.pk]), said, follow=True)
        dead.refresh_from_db()
        return str(answer.content.decode())

    press("dismiss", reason="")
    assert dead.state == LetterState.OPEN
    press("dismiss", reason="a test")
    assert dead.state == LetterState.DISMISSED
    assert "Reopen it first" in press("try_this_again")
    press("reopen")
    press("try_this_again")
    assert dead.state == LetterState.RETRIED
    lists = shown(client, reverse("admin:sync_deadletter_changelist"), state="retried")
    assert "unreadable" in lists or "cannot be read" in lists


def test_a_listing_is_read_again_from_the_admin(client: Client, alder: Trade) -> None:
    seat(client, alder, Role.MANAGER, is_staff=True)
    listing = alder.shops["north"].listings["MUG"]

    page = client.post(
        reverse("admin:channels_listing_read_listing_again", args=[listing.pk]), {"reason": "odd"}, follow=True
    )

    assert "1 levels will be read within seconds." in page.content.decode()
    assert ListingLevel.objects.exclude(suspect_since=None).get().listing_id == listing.pk


@pytest.mark.parametrize("what", ["sku", "group"])
def test_the_pages_of_a_sku_and_of_a_group_lead_to_reading_them_again(client: Client, alder: Trade, what: str) -> None:
    seat(client, alder, Role.MANAGER, is_staff=True)
    row, name = (alder.skus["MUG"], "inventory_sku") if what == "sku" else (alder.group, "locations_locationgroup")

    button = reverse(f"admin:{name}_read_again", args=[row.pk])
    assert button in client.get(reverse(f"admin:{name}_change", args=[row.pk])).content.decode()
    asked = client.get(button, follow=True)
    page = asked.content.decode()

    assert ('value="MUG"' if what == "sku" else f'<option value="{alder.group.pk}" selected>') in page
    done = client.post(asked.redirect_chain[-1][0], {what: "MUG" if what == "sku" else row.pk}).content.decode()
    assert f"{2 if what == 'sku' else 4} listing levels will be read" in done

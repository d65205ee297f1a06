"""Apply events of the inbox once more, as a job."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from channels.models import Channel
from merchants.models import Merchant
from sync import jobs
from sync.models import JOB_UNDER_WAY, Job

LOOKS_EVERY_SECONDS = 0.5


class Command(BaseCommand):
    help = (
        "Apply events of the inbox again, by id, by filter or by time, and say whether that moved stock. Safe at any time: "
        "applying an event twice changes nothing. Workers must be running, or the events wait for them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--event", type=int, nargs="+", metavar="ID", help="these events")
        parser.add_argument("--since", help="received since, such as 2026-11-20T12:00:00Z")
        parser.add_argument("--until", help="received until")
        parser.add_argument("--channel", help="of the channel with this name")
        parser.add_argument("--topic", help="such as orders/create")
        parser.add_argument("--state", nargs="+", help="applied, ignored, dead")
        parser.add_argument("--reason", help="whose reason holds this text")
        parser.add_argument("--about", help="of this order or SKU")
        parser.add_argument("--merchant", help="the merchant's slug, where there are several")
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")

    def handle(self, *args: Any, **options: Any) -> None:
        merchant = _merchant(options["merchant"])
        said = {
            "ids": options["event"],
            "states": options["state"],
            "channel": _channel(merchant, options["channel"]),
            **{name: options[name] for name in ("since", "until", "topic", "reason", "about")},
        }
        try:
            about = jobs.preview(merchant_id=merchant.pk, kind="replay_events", said=said)
            self.stdout.write(about.words)
            if options["dry_run"]:
                return
            job = jobs.create(merchant_id=merchant.pk, kind="replay_events", said=said, reason="manage.py replay")
        except jobs.BadParameters as error:
            raise CommandError(f"{error.name}: {error}") from None
        except jobs.NothingToDo as error:
            raise CommandError(str(error)) from None
        self._follow(job)

    def _follow(self, job: Job) -> None:
        """Work the job here, beside whatever workers do it too, and tell how far it is."""
        told = -1
        while job.state in JOB_UNDER_WAY:
            jobs.work(job_id=job.pk)
            job.refresh_from_db()
            if job.done != told and job.state in JOB_UNDER_WAY:
                told = job.done
                self.stdout.write(f"{job.done:,} of {job.total:,}")
            if job.state in JOB_UNDER_WAY:
                time.sleep(LOOKS_EVERY_SECONDS)
        self.stdout.write(self.style.SUCCESS(f"{job.get_state_display()}. {job.result}"))


def _merchant(slug: str | None) -> Merchant:
    merchants = Merchant.objects.filter(slug=slug) if slug else Merchant.objects.all()
    found = list(merchants.order_by("pk")[:2])
    if not found:
        raise CommandError(f"There is no merchant {slug or ''}.".replace(" .", "."))
    if len(found) > 1:
        raise CommandError("There are several merchants: say which with --merchant and its slug.")
    return found[0]


def _channel(merchant: Merchant, name: str | None) -> int | None:
    if not name:
        return None
    channel = Channel.objects.filter(merchant=merchant, name=name).first()
    if channel is None:
        raise CommandError(f"{merchant} has no channel named {name}.")
    return channel.pk

"""Looking after a channel's webhook subscriptions, and keeping what was found: what was gone leaves a gap to be read."""

from __future__ import annotations

from datetime import datetime

from django.db import transaction

from channels import connect, protocol
from channels.models import Channel, SubscriptionCheck


def check(channel: Channel, *, now: datetime) -> protocol.SubscriptionReport:
    """Have the channel deliver all webhooks to us, and write down what was amiss.

    Raises:
        protocol.ChannelError: as told by the channel; nothing is written down.
    """
    report = connect.connector_for(channel).ensure_webhooks(connect.callback_url(channel))
    _note(channel, report, now)
    return report


@transaction.atomic
def _note(channel: Channel, report: protocol.SubscriptionReport, now: datetime) -> None:
    known, is_first = SubscriptionCheck.objects.select_for_update().get_or_create(
        channel=channel, defaults={"merchant_id": channel.merchant_id, "checked_at": now}
    )
    amiss = [*report.created, *report.repaired, *(topic for topic, _ in report.failed)]
    if amiss:
        known.missing = sorted(amiss)
        # Webhooks have been lost at most since all was well.
        known.gap_from = channel.created_at if is_first else known.gap_from if known.error else known.checked_at
    if report.created or report.repaired:
        known.repaired_at = now
    known.error = "; ".join(f"{topic}: {why}" for topic, why in report.failed)[:500]
    known.checked_at = now
    known.save()

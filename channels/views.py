"""Pages of channels for their merchant's people and programs that watch."""

from __future__ import annotations

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from channels.condition import condition_of
from channels.models import Channel
from merchants.access import Seats, member_page


@never_cache
@require_safe
@member_page()
def condition(request: HttpRequest, seats: Seats, channel_id: int) -> HttpResponse:
    """A channel's breaker, budget, calls and outages as JSON."""
    channel = Channel.objects.filter(pk=channel_id, merchant_id__in=[seat.merchant.pk for seat in seats.every]).first()
    if channel is None:
        raise Http404("No such channel.")
    return JsonResponse({"channel": channel.name, **condition_of(channel, now=timezone.now()).as_json()})

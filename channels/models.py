"""The outside: connected accounts, what they call things, what arrived from them and what was sent to them."""

from __future__ import annotations

import secrets
from decimal import Decimal

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import ExpressionWrapper, F, Q
from django.db.models.functions import Coalesce, Now

from inventory.models import Sku, StockLevel
from merchants.models import Merchant
from merchants.tenancy import SameMerchant, in_choices, tenant_identity


def new_webhook_token() -> str:
    """128 unguessable bits for a channel's own webhook path."""
    return secrets.token_urlsafe(16)


class ChannelKind(models.TextChoices):
    """Which connector speaks for the channel."""

    SHOPIFY = "shopify", "Shopify"
    SANDBOX = "sandbox", "Sandbox (a practice Shopify store)"


class ChannelState(models.TextChoices):
    """Whether a channel is read and written."""

    CONNECTING = "connecting", "Connecting"
    ACTIVE = "active", "Active"
    PAUSED = "paused", "Paused: nothing is written"
    NEEDS_AUTH = "needs_auth", "Needs to be authorized again"
    UNINSTALLED = "uninstalled", "Uninstalled in the store"


class Edits(models.TextChoices):
    """What is done about numbers that somebody changed in the store by hand."""

    ADOPT = "adopt", "Take it over into the pool"
    OVERRIDE = "override", "Overwrite it with the pool's number"
    ASK = "ask", "Ask: units that are missing are kept out of the pool until somebody decides"


class Channel(models.Model):
    """One connected account: a Shopify store, an Amazon seller account in one marketplace, ..."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="channels")
    kind = models.CharField(max_length=20, choices=ChannelKind.choices)
    name = models.CharField(max_length=80)
    account = models.CharField(
        max_length=255,
        help_text="The account's own identifier: for Shopify the domain, such as north.myshopify.com.",
    )
    state = models.CharField(
        max_length=20,
        choices=ChannelState.choices,
        default=ChannelState.CONNECTING,
        db_default=ChannelState.CONNECTING,
    )
    state_reason = models.CharField(max_length=500, blank=True, db_default="")
    webhook_token = models.CharField(max_length=40, unique=True, default=new_webhook_token, editable=False)
    orders_counted_from = models.DateTimeField(
        null=True, blank=True, help_text="Orders placed earlier are already in the opening stock."
    )
    orders_watermark = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="Orders changed up to this moment, by the store's clock, are in the inbox.",
    )
    #: How far a poll that was cut short has read the order list, by the store's clock: there the next one goes on.
    orders_cut_short_at = models.DateTimeField(null=True, blank=True, editable=False)
    #: When the latest poll that read the order list to its end began, by our clock.
    orders_read_at = models.DateTimeField(null=True, blank=True, editable=False)
    #: Set after a failure of the whole account (outage, throttling): nothing is sent before.
    next_call_at = models.DateTimeField(db_default=Now(), editable=False)
    failures = models.PositiveIntegerField(default=0, db_default=0, editable=False)
    failing_since = models.DateTimeField(null=True, blank=True, editable=False)
    #: What kind of trouble it is (`channels.protocol.Cause`), while it fails.
    failing_cause = models.CharField(max_length=20, blank=True, db_default="", editable=False)
    last_error = models.CharField(max_length=500, blank=True, db_default="", editable=False)
    #: How long news takes from this store to us, and from us to this store (`locations.pace.Propagation`).
    inbound_seconds = models.FloatField(default=0, db_default=0, editable=False)
    inbound_observed_at = models.DateTimeField(null=True, blank=True, editable=False)
    outbound_seconds = models.FloatField(default=0, db_default=0, editable=False)
    outbound_observed_at = models.DateTimeField(null=True, blank=True, editable=False)
    on_loss = models.CharField(
        "units removed in the store by hand",
        max_length=10,
        choices=Edits.choices,
        default=Edits.ADOPT,
        db_default=Edits.ADOPT,
        help_text="Whatever is chosen here, units that are missing for no known reason are not sold elsewhere meanwhile.",
    )
    on_gain = models.CharField(
        "units added in the store by hand",
        max_length=10,
        choices=Edits.choices,
        default=Edits.OVERRIDE,
        db_default=Edits.OVERRIDE,
        help_text="Take them over only if people count stock in this store: a mistake there is then for sale everywhere.",
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    #: So many of a channel's levels differ at most before a reconciliation raises the alarm.
    drift_alarm_percent = models.DecimalField(
        "drift that raises the alarm (% of the levels)",
        max_digits=5,
        decimal_places=2,
        default=Decimal(2),
        db_default=Decimal(2),
        validators=[MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(100))],
        help_text="When more than this share of the store's levels shows another number than it must, nothing is raised "
        "there until somebody has looked or a clean reconciliation follows. Lowers go on.",
    )
    drift_alarm_levels = models.PositiveIntegerField(
        "and so many levels at least",
        default=10,
        db_default=10,
        help_text="In a small store one difference is a large share.",
    )
    #: Set by an alarm: since then nothing is raised there (see `channels.steering.pause_raises`).
    raises_paused_at = models.DateTimeField(null=True, blank=True, editable=False)
    raises_paused_reason = models.CharField(max_length=500, blank=True, db_default="", editable=False)
    #: Beside the state, which says whether the channel is read at all.
    is_shadow = models.BooleanField(
        "shadow mode",
        default=False,
        db_default=False,
        editable=False,
        help_text="Everything is computed and nothing is written; it is compared with what the store shows.",
    )
    shadow_since = models.DateTimeField(null=True, blank=True, editable=False)
    holds_big_runs = models.BooleanField(
        "hold big changes",
        default=True,
        db_default=True,
        help_text="Changes of too many listings at once that no sales explain wait until somebody confirms them.",
    )
    big_run_levels = models.PositiveSmallIntegerField(
        "from so many levels on", default=20, db_default=20, help_text="Fewer changes are never held."
    )
    big_run_zero_percent = models.PositiveSmallIntegerField(
        "taken to zero (%)",
        default=20,
        db_default=20,
        validators=[MaxValueValidator(100)],
        help_text="Held when more than this share of what the channel shows would be taken to zero.",
    )
    big_run_change_percent = models.PositiveSmallIntegerField(
        "changed by more than half (%)",
        default=50,
        db_default=50,
        validators=[MaxValueValidator(100)],
        help_text="Held when more than this share of what the channel shows would change by more than half.",
    )

    class Meta:
        constraints = [
            tenant_identity("channel"),
            models.CheckConstraint(
                condition=Q(drift_alarm_percent__gte=0, drift_alarm_percent__lte=100),
                name="channel_drift_alarm_is_share",
            ),
            models.CheckConstraint(
                condition=Q(raises_paused_at__isnull=True) | ~Q(raises_paused_reason=""), name="channel_paused_says_why"
            ),
            models.CheckConstraint(
                condition=Q(is_shadow=False, shadow_since__isnull=True) | Q(is_shadow=True, shadow_since__isnull=False),
                name="channel_shadow_exactly_when_dated",
            ),
            models.CheckConstraint(
                condition=Q(big_run_levels__gt=0, big_run_zero_percent__lte=100, big_run_change_percent__lte=100),
                name="channel_big_run_terms_possible",
            ),
            models.UniqueConstraint(fields=["kind", "account"], name="channel_account_connected_once"),
            models.UniqueConstraint(fields=["merchant", "name"], name="channel_name_once_per_merchant"),
            in_choices("channel_kind_known", "kind", ChannelKind),
            in_choices("channel_state_known", "state", ChannelState),
            in_choices("channel_on_loss_known", "on_loss", Edits),
            in_choices("channel_on_gain_known", "on_gain", Edits),
        ]

    def __str__(self) -> str:
        return self.name


class Credential(models.Model):
    """A channel's secrets, each sealed and bound to this row (see `channels.credentials`); never shown again."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    channel = models.OneToOneField(Channel, on_delete=models.CASCADE, related_name="credential", db_constraint=False)
    client_id = models.CharField(max_length=120, blank=True)
    sealed_client_secret = models.TextField(blank=True, db_default="")
    #: Kept while a rotation is under way: the channel signs with the old one for up to an hour.
    sealed_previous_client_secret = models.TextField(blank=True, db_default="")
    sealed_access_token = models.TextField(blank=True, db_default="")
    sealed_refresh_token = models.TextField(blank=True, db_default="")
    access_token_expires_at = models.DateTimeField(null=True, blank=True)
    scopes = ArrayField(models.CharField(max_length=60), default=list, blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [SameMerchant(field="channel", name="credential_channel_of_merchant")]

    def __str__(self) -> str:
        return f"credentials of {self.channel}"


class StoreLocation(models.Model):
    """A place as a channel knows it."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="locations", db_constraint=False)
    remote_id = models.CharField(max_length=120)
    name = models.CharField(max_length=255)
    is_active = models.BooleanField(default=True, db_default=True)

    class Meta:
        constraints = [
            tenant_identity("store_location"),
            SameMerchant(field="channel", name="store_location_channel_of_merchant"),
            models.UniqueConstraint(fields=["channel", "remote_id"], name="store_location_once"),
        ]

    def __str__(self) -> str:
        return f"{self.channel}: {self.name}"


class Listing(models.Model):
    """A SKU mapping: one variant of one channel, with that channel's identifiers."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    channel = models.ForeignKey(Channel, on_delete=models.CASCADE, related_name="listings", db_constraint=False)
    sku = models.ForeignKey(
        Sku,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="listings",
        db_constraint=False,
        help_text="Empty: not mapped yet; its sales wait.",
    )
    remote_variant_id = models.CharField(max_length=120)
    remote_product_id = models.CharField(max_length=120, blank=True)
    inventory_item_id = models.CharField(max_length=120, blank=True)
    remote_sku = models.CharField("SKU in the store", max_length=255, blank=True)
    title = models.CharField(max_length=255, blank=True)
    barcode = models.CharField(max_length=64, blank=True)
    is_tracked = models.BooleanField(default=True, db_default=True, help_text="The store counts its stock.")
    is_store_bundle = models.BooleanField(
        default=False,
        db_default=False,
        help_text="The store computes its stock from components and refuses writes.",
    )
    sells_when_out_of_stock = models.BooleanField(default=False, db_default=False)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            tenant_identity("listing"),
            SameMerchant(field="channel", name="listing_channel_of_merchant"),
            SameMerchant(field="sku", name="listing_sku_of_merchant"),
            models.UniqueConstraint(fields=["channel", "remote_variant_id"], name="listing_variant_once"),
        ]
        indexes = [
            # A level webhook names the inventory item only.
            models.Index(fields=["channel", "inventory_item_id"], name="listing_by_inventory_item"),
            # Listings to publish when a SKU is dirty.
            models.Index(fields=["sku"], condition=Q(sku__isnull=False), name="listing_by_sku"),
        ]

    def __str__(self) -> str:
        return f"{self.channel}: {self.title or self.remote_sku or self.remote_variant_id}"


#: What a store shows: a reading that nothing explains yet with what came since, else what we account for.
_SHOWN = Coalesce(F("sample") + F("since_sample"), F("base") + F("order_effects") + F("pushed"))


class ListingLevel(models.Model):
    """What one store location shows of a listing, and what it should show.

    `reported` = `base` + `order_effects` + `pushed`: the quantity the store must show if nobody but its shoppers and
    we touched it. `shown` is what we believe it really shows: the latest reading while that differs, else `reported`.
    `desired` is ours. The whole engine drives `shown` to `desired`.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    listing = models.ForeignKey(
        Listing, on_delete=models.CASCADE, related_name="levels", db_constraint=False, db_index=False
    )
    store_location = models.ForeignKey(
        StoreLocation, on_delete=models.CASCADE, related_name="levels", db_constraint=False
    )
    is_stocked = models.BooleanField(default=True, db_default=True, help_text="The store stocks it at this location.")
    gone_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Since when the store does not count it there any more, while units sold before may not be known yet.",
    )

    base = models.IntegerField(default=0, db_default=0)
    order_effects = models.IntegerField("effect of known orders", default=0, db_default=0)
    pushed = models.IntegerField("sum of confirmed pushes", default=0, db_default=0)
    reported = models.GeneratedField(
        expression=F("base") + F("order_effects") + F("pushed"),
        output_field=models.IntegerField(),
        db_persist=True,
    )
    #: A reading that nothing explains yet, taken between these two moments when so much had been pushed. It is audited
    #: once the store's order list reaches beyond it.
    sample = models.IntegerField("reading that is not explained yet", null=True, blank=True)
    sampled_from = models.DateTimeField(null=True, blank=True)
    sampled_until = models.DateTimeField(null=True, blank=True)
    sample_pushed = models.IntegerField(null=True, blank=True)
    #: By how much the store's clock was ahead of ours then: ours may be set since.
    sampled_ahead = models.DurationField(null=True, blank=True)
    #: What the store shows beyond the sample, by later readings and confirmed pushes; empty: not known any more.
    since_sample = models.IntegerField(null=True, blank=True)
    shown = models.GeneratedField(expression=_SHOWN, output_field=models.IntegerField(), db_persist=True)
    desired = models.IntegerField(null=True, blank=True, help_text="Empty: not published (unmapped).")
    #: An index on this, and not on the numbers: a sale at the store itself lowers both, which touches no index then.
    is_out_of_sync = models.GeneratedField(
        expression=ExpressionWrapper(Q(desired__isnull=False) & ~Q(desired=_SHOWN), output_field=models.BooleanField()),
        output_field=models.BooleanField(),
        db_persist=True,
    )
    #: How fast it sells here (`locations.pace.Velocity`).
    rush_units = models.FloatField(default=0, db_default=0, editable=False)
    usual_units = models.FloatField(default=0, db_default=0, editable=False)
    largest_sale = models.FloatField(default=0, db_default=0, editable=False)
    sold_at = models.DateTimeField(null=True, blank=True, editable=False)
    #: Counts every change of base, order_effects and pushed: a reading is only judged when it did not move meanwhile.
    version = models.BigIntegerField(default=0, db_default=0)
    #: The source's own clock of the newest thing known of this level; older webhooks are superseded.
    source_at = models.DateTimeField(null=True, blank=True)
    confirmed_at = models.DateTimeField(null=True, blank=True, help_text="When the store last confirmed the number.")

    suspect_since = models.DateTimeField(null=True, blank=True)
    suspect_reason = models.CharField(max_length=60, blank=True, db_default="")
    #: What the webhook that raised the suspicion showed; orders that arrive later may explain it without a reading.
    suspect_available = models.IntegerField(null=True, blank=True)
    next_check_at = models.DateTimeField(null=True, blank=True)
    #: Units taken out of the pool until the sample is explained, and where they are held.
    held = models.PositiveIntegerField(default=0, db_default=0)
    held_at = models.ForeignKey(
        StockLevel,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_constraint=False,
        db_index=False,
    )

    #: Writes that were given up without an answer may still come true: the store may then sell so many units more.
    doubtful_by = models.PositiveIntegerField(null=True, blank=True)
    doubtful_from = models.DateTimeField(null=True, blank=True)
    doubtful_until = models.DateTimeField(null=True, blank=True)
    #: Lowers that may have been applied before they were refused, and when each was opened; a reading that is settled tells.
    doubtful_lowers = ArrayField(models.PositiveIntegerField(), default=list, db_default=[], blank=True)
    doubtful_lowers_at = ArrayField(models.DateTimeField(), default=list, db_default=[], blank=True)

    next_push_at = models.DateTimeField(db_default=Now())
    push_failures = models.PositiveIntegerField(default=0, db_default=0)
    last_error = models.CharField(max_length=500, blank=True, db_default="")
    #: The events behind the change that is waiting to be pushed (newest 64), and when the oldest of them arrived.
    waiting_correlation_ids = ArrayField(models.UUIDField(), default=list, db_default=[], blank=True)
    waiting_since = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            tenant_identity("listing_level"),
            SameMerchant(field="channel", name="listing_level_channel_of_merchant"),
            SameMerchant(field="listing", name="listing_level_listing_of_merchant"),
            SameMerchant(field="store_location", name="listing_level_location_of_merchant"),
            SameMerchant(field="held_at", name="listing_level_held_at_of_merchant"),
            models.UniqueConstraint(fields=["listing", "store_location"], name="listing_level_once"),
            models.CheckConstraint(
                condition=Q(sample__isnull=True) | Q(suspect_since__isnull=False),
                name="listing_level_sample_only_while_suspect",
            ),
            models.CheckConstraint(
                condition=Q(
                    sample__isnull=True,
                    sampled_from__isnull=True,
                    sampled_until__isnull=True,
                    sample_pushed__isnull=True,
                    sampled_ahead__isnull=True,
                    since_sample__isnull=True,
                )
                | Q(
                    sample__isnull=False,
                    sampled_from__isnull=False,
                    sampled_until__gte=F("sampled_from"),
                    sample_pushed__isnull=False,
                    sampled_ahead__isnull=False,
                ),
                name="listing_level_sample_whole",
            ),
            models.CheckConstraint(condition=Q(held=0) | Q(held_at__isnull=False), name="listing_level_held_somewhere"),
            models.CheckConstraint(
                condition=Q(gone_at__isnull=True) | Q(suspect_since__isnull=False),
                name="listing_level_gone_only_while_suspect",
            ),
            models.CheckConstraint(
                condition=Q(desired__isnull=True) | Q(desired__gte=0),
                name="listing_level_desired_not_negative",
            ),
        ]
        indexes = [
            # What is there to push on a channel? (push, sweep)
            models.Index(
                fields=["channel", "next_push_at"],
                condition=Q(is_out_of_sync=True),
                name="listing_level_out_of_sync",
            ),
            # Doubts that are over (sweep).
            models.Index(
                fields=["doubtful_until"], condition=Q(doubtful_until__isnull=False), name="listing_level_in_doubt"
            ),
            # Which levels of a channel wait to be read again? (suspects, sweep)
            models.Index(
                fields=["channel", "next_check_at"],
                condition=Q(suspect_since__isnull=False),
                name="listing_level_suspect",
            ),
            # Pages of a channel's levels in a fixed order (reconciliation).
            models.Index(fields=["channel", "id"], name="listing_level_by_channel"),
        ]

    def __str__(self) -> str:
        return f"{self.listing} at {self.store_location}"


class EventState(models.TextChoices):
    """An acknowledged event is in exactly one of these."""

    PENDING = "pending"
    APPLIED = "applied"
    IGNORED = "ignored"
    DEAD = "dead"


class InboxEvent(models.Model):
    """Every acknowledged inbound event, raw, in exactly one state. Committed before the channel gets its 200."""

    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="events", db_constraint=False, db_index=False
    )
    topic = models.CharField(max_length=80)
    webhook_id = models.CharField(max_length=160, help_text="Identity of the delivery; repeated over its retries.")
    event_id = models.CharField(max_length=160, blank=True, db_default="")
    api_version = models.CharField(max_length=20, blank=True, db_default="")
    triggered_at = models.DateTimeField(null=True, blank=True)
    #: The day by which its body is kept, apart (`channels.bodies`); the hash stays when the body is gone.
    body_kept_on = models.DateField(editable=False)
    body_sha256 = models.BinaryField(max_length=32)
    hlc = models.BigIntegerField(help_text="Hybrid logical clock at receipt.")
    is_clock_suspect = models.BooleanField(
        "channel's clock is ahead",
        default=False,
        db_default=False,
        help_text="The channel dates the event more than five minutes into our future; its clock is not followed.",
    )
    received_at = models.DateTimeField()
    duplicates = models.PositiveIntegerField(default=0, db_default=0)
    correlation_id = models.UUIDField()
    state = models.CharField(
        max_length=10, choices=EventState.choices, default=EventState.PENDING, db_default=EventState.PENDING
    )
    reason = models.CharField(max_length=500, blank=True, db_default="")
    attempts = models.PositiveSmallIntegerField(default=0, db_default=0)
    #: While pending: when the event may be claimed (again). A claim moves it ahead, as a lease.
    next_attempt_at = models.DateTimeField(db_default=Now())
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="inbox_event_channel_of_merchant"),
            models.UniqueConstraint(fields=["channel", "topic", "webhook_id"], name="inbox_event_delivered_once"),
            models.CheckConstraint(
                condition=~Q(state__in=["ignored", "dead"]) | ~Q(reason=""), name="inbox_event_says_why"
            ),
            models.CheckConstraint(
                condition=Q(state="pending", settled_at__isnull=True)
                | (~Q(state="pending") & Q(settled_at__isnull=False)),
                name="inbox_event_settled_exactly_when_dated",
            ),
            in_choices("inbox_event_state_known", "state", EventState),
        ]
        indexes = [
            # What is there to apply for a merchant? (apply, sweep) Not by `next_attempt_at`: a claim would write all indexes.
            models.Index(fields=["merchant", "id"], condition=Q(state="pending"), name="inbox_event_pending"),
            # The inbox of one merchant, newest first (admin list, live page).
            models.Index(fields=["merchant", "-id"], name="inbox_event_by_merchant"),
            # What was set aside on a channel, and the dead (admin).
            models.Index(
                fields=["channel", "state", "id"],
                condition=Q(state__in=["ignored", "dead"]),
                name="inbox_event_set_aside",
            ),
            # What waits for a certain mapping (replay). Levels are read instead.
            models.Index(
                fields=["channel", "reason"],
                condition=Q(state="ignored", reason__startswith="unmapped ") & ~Q(topic__startswith="inventory"),
                name="inbox_event_unmapped",
            ),
            # From any step of a story back to the event.
            models.Index(fields=["correlation_id"], name="inbox_event_by_correlation"),
            # Orders that polls have told of lately (what reconciliations recovered).
            models.Index(
                fields=["channel", "received_at"], condition=Q(topic="orders/polled"), name="inbox_event_polled"
            ),
            # The greatest stamp, after which a process's clock starts.
            models.Index(fields=["hlc"], name="inbox_event_by_stamp"),
        ]

    def __str__(self) -> str:
        return f"{self.topic} {self.webhook_id}"


class BatchState(models.TextChoices):
    """How far a write request has come."""

    INTENT = "intent", "About to be sent"
    UNKNOWN = "unknown", "No answer: sent again with the same key"
    DONE = "done", "Answered"
    UNRESOLVED = "unresolved", "Being resolved by reading the store"


class PushBatch(models.Model):
    """One write request to a channel; its id is the idempotency key, committed before the request is sent."""

    id = models.UUIDField(primary_key=True)
    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="push_batches", db_constraint=False, db_index=False
    )
    state = models.CharField(
        max_length=10, choices=BatchState.choices, default=BatchState.INTENT, db_default=BatchState.INTENT
    )
    #: The fence: only the holder of the latest token may commit what became of this request.
    lease_token = models.BigIntegerField()
    attempts = models.PositiveSmallIntegerField(default=0, db_default=0)
    #: While unanswered: the sender's lease; once it has run out anyone may send it again under the same key.
    next_attempt_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    sent_at = models.DateTimeField(null=True, blank=True)
    answered_at = models.DateTimeField(null=True, blank=True)
    error = models.CharField(max_length=500, blank=True, db_default="")

    class Meta:
        verbose_name_plural = "push batches"
        constraints = [
            models.UniqueConstraint(fields=["merchant", "id"], name="push_batch_tenant_identity"),
            SameMerchant(field="channel", name="push_batch_channel_of_merchant"),
            in_choices("push_batch_state_known", "state", BatchState),
        ]
        indexes = [
            # Which requests have no answer yet? (push, sweep)
            models.Index(
                fields=["channel", "next_attempt_at"],
                condition=Q(state__in=["intent", "unknown"]),
                name="push_batch_unanswered",
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class PushState(models.TextChoices):
    """What became of one row of a write request."""

    OPEN = "open", "On its way, or its outcome is not known"
    CONFIRMED = "confirmed", "Confirmed"
    REJECTED = "rejected", "Not applied"


class Push(models.Model):
    """One row of a push batch: set this level from what it shows to what it should show."""

    merchant = models.ForeignKey(
        Merchant, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="+", db_constraint=False, db_index=False
    )
    batch = models.ForeignKey(
        PushBatch, on_delete=models.CASCADE, related_name="pushes", db_constraint=False, db_index=False
    )
    position = models.PositiveSmallIntegerField()
    listing_level = models.ForeignKey(
        ListingLevel, on_delete=models.CASCADE, related_name="pushes", db_constraint=False, db_index=False
    )
    from_quantity = models.IntegerField()
    to_quantity = models.IntegerField()
    state = models.CharField(
        max_length=10, choices=PushState.choices, default=PushState.OPEN, db_default=PushState.OPEN
    )
    error_code = models.CharField(max_length=80, blank=True, db_default="")
    error = models.CharField(max_length=500, blank=True, db_default="")
    correlation_ids = ArrayField(models.UUIDField(), default=list, db_default=[])
    caused_at = models.DateTimeField(null=True, blank=True, help_text="When the oldest event behind it arrived.")
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    settled_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name_plural = "pushes"
        constraints = [
            SameMerchant(field="channel", name="push_channel_of_merchant"),
            SameMerchant(field="batch", name="push_batch_of_merchant"),
            SameMerchant(field="listing_level", name="push_listing_level_of_merchant"),
            models.UniqueConstraint(fields=["batch", "position"], name="push_position_once"),
            # Two writes about one level are never under way at once, whatever the locks do.
            models.UniqueConstraint(
                fields=["listing_level"], condition=Q(state="open"), name="push_one_open_per_level"
            ),
            models.CheckConstraint(
                condition=Q(state="open", settled_at__isnull=True) | (~Q(state="open") & Q(settled_at__isnull=False)),
                name="push_settled_exactly_when_dated",
            ),
            in_choices("push_state_known", "state", PushState),
        ]
        indexes = [
            # The pushes an event led to (story).
            GinIndex(fields=["correlation_ids"], name="push_by_correlation", fastupdate=True),
            # The history of one level, newest first (its page).
            models.Index(fields=["listing_level", "-id"], name="push_by_level"),
            # The pushes of one merchant, newest first (admin list).
            models.Index(fields=["merchant", "-id"], name="push_by_merchant"),
            # Old ones that changed nothing, to be forgotten.
            models.Index(fields=["settled_at"], condition=Q(state="rejected"), name="push_refused_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.listing_level}: {self.from_quantity} to {self.to_quantity} ({self.state})"


class OutageCause(models.TextChoices):
    """Whose trouble it was: the words of `channels.protocol.Cause`."""

    NO_CONNECTION = "no_connection", "Could not be reached"
    NO_ANSWER = "no_answer", "Gave no whole answer in time"
    SERVER_ERROR = "server_error", "Answered that it is broken"
    UNREADABLE = "unreadable", "Answered something that is no answer"
    CLOSED = "closed", "Frozen or locked"
    NOT_AUTHORIZED = "not_authorized", "Refused our access"
    OTHER = "other", "Other"


class Outage(models.Model):
    """A time in which a channel did not answer, from its first failure to its first answer.

    Written by a trigger on the channel's row, in the transaction that counts the second failure in a row and in the one that
    says that it answers again: whoever does it, and whatever dies meanwhile.
    """

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="outages", db_constraint=False, db_index=False
    )
    began_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    cause = models.CharField(max_length=20, choices=OutageCause.choices)
    message = models.CharField(max_length=500, blank=True, db_default="")

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="outage_channel_of_merchant"),
            in_choices("outage_cause_known", "cause", OutageCause),
            models.UniqueConstraint(
                fields=["channel"], condition=Q(ended_at__isnull=True), name="outage_one_open_per_channel"
            ),
            models.CheckConstraint(
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=F("began_at")), name="outage_ends_after_it_began"
            ),
        ]
        indexes = [
            # A channel's outages, newest first (its page, its uptime).
            models.Index(fields=["channel", "-began_at"], name="outage_by_channel"),
            # A merchant's outages, newest first (scorecard).
            models.Index(fields=["merchant", "-id"], name="outage_by_merchant"),
        ]

    def __str__(self) -> str:
        return f"{self.channel} from {self.began_at:%Y-%m-%d %H:%M:%S}"


class CallHour(models.Model):
    """What became of the calls of one class to a channel within one hour (UTC); written by `channels.calls`."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+", db_index=False)
    channel = models.ForeignKey(
        Channel, on_delete=models.CASCADE, related_name="call_hours", db_constraint=False, db_index=False
    )
    hour = models.DateTimeField()
    urgency = models.PositiveSmallIntegerField(help_text="0 is the most urgent (channels.urgency).")
    calls = models.PositiveIntegerField(default=0, db_default=0)
    cost = models.FloatField(default=0, db_default=0, help_text="In the channel's own points.")
    throttled = models.PositiveIntegerField("asked to wait by the channel", default=0, db_default=0)
    paced = models.PositiveIntegerField("not sent to stay within the budget", default=0, db_default=0)
    rested = models.PositiveIntegerField("not sent while the channel did not answer", default=0, db_default=0)
    unanswered = models.PositiveIntegerField("without a whole answer", default=0, db_default=0)
    server_errors = models.PositiveIntegerField("answered that it is broken", default=0, db_default=0)
    waited_seconds = models.FloatField("seconds waited for the budget", default=0, db_default=0)

    class Meta:
        constraints = [
            SameMerchant(field="channel", name="call_hour_channel_of_merchant"),
            models.UniqueConstraint(fields=["channel", "hour", "urgency"], name="call_hour_once"),
            models.CheckConstraint(condition=Q(urgency__lte=3), name="call_hour_urgency_known"),
        ]
        indexes = [
            # The newest hours of a merchant (scorecard).
            models.Index(fields=["merchant", "-hour"], name="call_hour_by_merchant"),
        ]

    def __str__(self) -> str:
        return f"{self.channel_id} at {self.hour:%Y-%m-%d %H}:00, class {self.urgency}"


class WritingStop(models.Model):
    """A time in which nothing is written to any channel of a merchant; or, without a merchant, of the installation.

    While it has no end, no push batch is opened and none is sent again (`channels.writing`).
    """

    merchant = models.ForeignKey(
        Merchant,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
        help_text="Empty: the whole installation, stopped by an operator.",
    )
    began_at = models.DateTimeField(db_default=Now())
    ended_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=500)
    end_reason = models.CharField(max_length=500, blank=True, db_default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["merchant"],
                condition=Q(ended_at__isnull=True),
                nulls_distinct=False,
                name="writing_stop_one_open",
            ),
            models.CheckConstraint(condition=~Q(reason=""), name="writing_stop_says_why"),
        ]

    def __str__(self) -> str:
        return f"{self.merchant or 'Everybody'} from {self.began_at:%Y-%m-%d %H:%M:%S}"


class SubscriptionCheck(models.Model):
    """What the latest check of a channel's webhook subscriptions found, and the gap it left."""

    merchant = models.ForeignKey(Merchant, on_delete=models.CASCADE, related_name="+")
    channel = models.OneToOneField(
        Channel, on_delete=models.CASCADE, related_name="subscription_check", db_constraint=False
    )
    checked_at = models.DateTimeField()
    error = models.CharField(
        max_length=500, blank=True, db_default="", help_text="Which could not be made again, and why."
    )
    #: Subscriptions that were gone, or told another address, when something was last amiss.
    missing = ArrayField(models.CharField(max_length=80), default=list, db_default=[], blank=True)
    #: Between these moments webhooks may have been lost: the last check that found all well, and the repair.
    gap_from = models.DateTimeField(null=True, blank=True)
    repaired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [SameMerchant(field="channel", name="subscription_check_channel_of_merchant")]

    def __str__(self) -> str:
        return f"subscriptions of {self.channel}"

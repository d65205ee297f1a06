"""The rules as they are shipped, and how an alert comes about and ends. Pure.

A rule asks for a number per subject. From `raise_at` on, for as long as `hold`, an alert is raised; it recovers when the
number has been at `clear_at` or better for a while. Between the two nothing changes, so that a number that wavers tells
nobody anything. What follows from another alert (`causes`) is kept under that one and told to nobody, until the cause is
gone and it still stands.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

#: An alert ends when it has been better for so long.
CALM: Final = timedelta(minutes=2)
#: What outlasts its cause is told after so long: most of it ends by itself meanwhile.
RELIEF: Final = timedelta(minutes=3)
#: Members of an alert that are kept and told.
MEMBERS_MAX: Final = 50

SEVERITIES: Final = ("info", "warning", "critical")


class About(enum.StrEnum):
    """What a rule's alerts are about."""

    CHANNEL = "channel"
    MERCHANT = "merchant"
    INSTALLATION = "installation"


class Unit(enum.StrEnum):
    """What a rule's number counts."""

    SECONDS = "seconds"
    HOURS = "hours"
    PERCENT = "percent"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Rule:
    """One question with its thresholds, and what to say when the answer is bad."""

    name: str
    label: str
    kind: str  # of `merchants.models.NoticeKind`
    about: About
    unit: Unit
    raise_at: float
    clear_at: float
    title: str  # {who} is the subject, {value} the number in words
    means: str
    next_step: str
    title_of_one: str = ""
    severity: str = "warning"
    critical_at: float | None = None
    hold: timedelta = timedelta(0)
    #: Told again, while nobody has acknowledged it, when it has grown and this time has passed; None: never.
    again: timedelta | None = None
    causes: tuple[str, ...] = ()
    #: How often it is asked; dear questions less often than rules are evaluated.
    every: timedelta = timedelta(0)

    @property
    def anchor(self) -> str:
        """Its place in docs/runbook.md."""
        return f"alert-{self.name.replace('_', '-')}"

    @property
    def is_below(self) -> bool:
        """Whether small numbers are the bad ones."""
        return self.raise_at < self.clear_at


@dataclass(frozen=True, slots=True)
class Limits:
    """A rule's thresholds for one merchant."""

    raise_at: float
    clear_at: float
    critical_at: float | None
    hold: timedelta
    is_on: bool = True


def limits_of(rule: Rule, override: Mapping[str, Any] | None) -> Limits:
    """The thresholds as they are shipped, with what a merchant wants otherwise (None: as shipped)."""
    said = {name: value for name, value in (override or {}).items() if value is not None}
    hold = said.get("hold_seconds")
    return Limits(
        raise_at=said.get("raise_at", rule.raise_at),
        clear_at=said.get("clear_at", rule.clear_at),
        critical_at=said.get("critical_at", rule.critical_at),
        hold=rule.hold if hold is None else timedelta(seconds=hold),
        is_on=said.get("is_on", True),
    )


def problem_with(rule: Rule, limits: Limits) -> tuple[str, str] | None:
    """The field that makes thresholds senseless and why, if one does."""
    if rule.is_below and limits.clear_at <= limits.raise_at:
        return "clear_at", f"Give a number above {limits.raise_at:g}: small numbers raise this alert."
    if not rule.is_below and limits.clear_at >= limits.raise_at:
        return "clear_at", f"Give a number below {limits.raise_at:g}, or the alert would waver."
    if limits.critical_at is not None and _is_worse(rule, limits.raise_at, than=limits.critical_at):
        side = "below" if rule.is_below else "above"
        return "critical_at", f"Give a number {side} {limits.raise_at:g}: it is critical later than it is raised."
    return None


def _is_worse(rule: Rule, value: float, *, than: float) -> bool:
    return value < than if rule.is_below else value > than


def _passes(rule: Rule, value: float, threshold: float) -> bool:
    return value == threshold or _is_worse(rule, value, than=threshold)


# --- how an alert comes about and ends ----------------------------------------------------------------------


class Phase(enum.StrEnum):
    """How far an alert has come."""

    PENDING = "pending"
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RECOVERED = "recovered"


class News(enum.StrEnum):
    """What people are to be told."""

    NONE = "none"
    RAISED = "raised"
    AGAIN = "again"
    RECOVERED = "recovered"


#: Something a number consists of, such as a SKU: what tells it from the others, and what is said of it now.
Part = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a question answered for one subject, and what the number consists of, the gravest first."""

    value: float
    members: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an alert stands."""

    phase: Phase
    since: datetime
    severity: str
    value: float
    worst: float
    members: tuple[Part, ...] = ()
    cause: str = ""
    raised_at: datetime | None = None
    better_since: datetime | None = None
    recovered_at: datetime | None = None
    told_at: datetime | None = None
    told_value: float | None = None
    told_members: tuple[str, ...] = ()
    told_severity: str = ""
    snoozed_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cause:
    """The gravest thing an alert follows from: its key if it is open, and whether one may be about to be raised."""

    key: str = ""
    may_come: bool = False


NO_CAUSE: Final = Cause()


def step(
    rule: Rule, limits: Limits, standing: Standing | None, reading: Reading | None, *, cause: Cause, now: datetime
) -> tuple[Standing | None, News]:
    """Where an alert stands after a reading (None: the question does not name its subject any more), and what to tell.

    The same reading at the same time changes nothing the second time.
    """
    if not limits.is_on:
        return _ended(standing, now), News.NONE
    bad = reading if reading is not None and _passes(rule, reading.value, limits.raise_at) else None
    if standing is None or standing.phase is Phase.PENDING:
        if bad is None:
            return None, News.NONE
        standing = _noted(rule, limits, standing or _first(rule, bad, now), bad)
        if now - standing.since < limits.hold or cause.may_come:
            return standing, News.NONE
        standing = replace(standing, phase=Phase.FIRING, raised_at=now, cause=cause.key)
        return _with_news(rule, limits, standing, now)
    is_better = reading is None or not _is_worse(rule, reading.value, than=limits.clear_at)
    if is_better:
        standing = replace(_noted_value(standing, reading), better_since=standing.better_since or now)
        assert standing.better_since is not None
        if now - standing.better_since < CALM:
            return standing, News.NONE
        news = News.RECOVERED if standing.told_at else News.NONE
        return replace(standing, phase=Phase.RECOVERED, recovered_at=now), news
    assert reading is not None
    standing = _under(_noted(rule, limits, replace(standing, better_since=None), reading), cause, now)
    return _with_news(rule, limits, standing, now)


def _first(rule: Rule, reading: Reading, now: datetime) -> Standing:
    return Standing(Phase.PENDING, since=now, severity=rule.severity, value=reading.value, worst=reading.value)


def _ended(standing: Standing | None, now: datetime) -> Standing | None:
    """Somebody switched the rule off: what is open ends without a word."""
    if standing is None or standing.phase is Phase.PENDING:
        return None
    return replace(standing, phase=Phase.RECOVERED, recovered_at=now)


def _noted(rule: Rule, limits: Limits, standing: Standing, reading: Reading) -> Standing:
    """A severity only rises while an alert is open."""
    is_critical = limits.critical_at is not None and _passes(rule, reading.value, limits.critical_at)
    severity = "critical" if is_critical else standing.severity
    is_worse = _is_worse(rule, reading.value, than=standing.worst)
    worst = reading.value if is_worse else standing.worst
    return replace(_noted_value(standing, reading), severity=severity, worst=worst)


def _noted_value(standing: Standing, reading: Reading | None) -> Standing:
    if reading is None:
        return standing
    return replace(standing, value=reading.value, members=reading.members[:MEMBERS_MAX])


def _under(standing: Standing, cause: Cause, now: datetime) -> Standing:
    """Kept under its cause, or by itself since its cause is gone."""
    if cause.key:
        return replace(standing, cause=cause.key)
    return replace(standing, cause="", since=now) if standing.cause else standing


def _with_news(rule: Rule, limits: Limits, standing: Standing, now: datetime) -> tuple[Standing, News]:
    news = _news(rule, limits, standing, now)
    if news is News.NONE:
        return standing, news
    return replace(
        standing,
        told_at=now,
        told_value=standing.value,
        told_members=tuple(key for key, _ in standing.members),
        told_severity=standing.severity,
    ), news


def _news(rule: Rule, limits: Limits, standing: Standing, now: datetime) -> News:
    if standing.cause or (standing.snoozed_until is not None and now < standing.snoozed_until):
        return News.NONE
    assert standing.raised_at is not None
    if standing.told_at is None:
        outlasts_its_cause = standing.since > standing.raised_at
        is_time = now - standing.since >= max(limits.hold, RELIEF) if outlasts_its_cause else True
        return News.RAISED if is_time else News.NONE
    if SEVERITIES.index(standing.severity) > SEVERITIES.index(standing.told_severity):
        return News.AGAIN
    if standing.phase is Phase.ACKNOWLEDGED:
        return News.NONE
    was_snoozed = standing.snoozed_until is not None and standing.told_at < standing.snoozed_until
    is_time = rule.again is not None and now - standing.told_at >= rule.again
    return News.AGAIN if was_snoozed or (is_time and _has_grown(rule, standing)) else News.NONE


def _has_grown(rule: Rule, standing: Standing) -> bool:
    assert standing.told_value is not None
    is_new = any(key not in standing.told_members for key, _ in standing.members)
    return is_new or _is_worse(rule, standing.value, than=standing.told_value)


def causes_of(rule: Rule, subjects: Sequence[str], standings: Mapping[tuple[str, str], Standing]) -> Cause:
    """The cause of a rule's alert about these subjects (its own, and the wider ones), among what stands."""
    may_come = False
    for name in rule.causes:
        for subject in subjects:
            standing = standings.get((name, subject))
            if standing is None or standing.phase is Phase.RECOVERED:
                continue
            if standing.phase is not Phase.PENDING:
                return Cause(key=f"{name} {subject}")
            may_come = True
    return Cause(may_come=may_come)


# --- the rules ----------------------------------------------------------------------------------------------


def _minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


_STANDSTILL = ("broker_away", "workers_silent", "beat_silent")
_STORE_AWAY = (*_STANDSTILL, "authorization", "channel_outage")

#: Causes before what follows from them.
RULES: Final[tuple[Rule, ...]] = (
    Rule(
        name="broker_away",
        label="The broker does not answer",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        hold=_minutes(1),
        severity="critical",
        title="The broker does not answer",
        means="No work is handed out to workers. Webhooks are still stored, and nothing is lost.",
        next_step="Start Redis (or whatever CELERY_BROKER_URL names) again, and look whether its disk or memory is full.",
    ),
    Rule(
        name="workers_silent",
        label="No worker ends any task",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.SECONDS,
        raise_at=90,
        clear_at=30,
        severity="critical",
        causes=("broker_away",),
        title="No worker has done anything for {value}",
        means="Sales are stored and not carried to the other stores. Nothing is lost; the stores drift apart meanwhile.",
        next_step="Start the workers. Those that run and do nothing: restart them.",
    ),
    Rule(
        name="beat_silent",
        label="The schedule stands still",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.SECONDS,
        raise_at=60,
        clear_at=20,
        severity="critical",
        causes=("broker_away",),
        title="The schedule (celery-beat) has started nothing for {value}",
        means="Other processes sweep and evaluate alerts in its place; reconciliations and reports do not begin.",
        next_step="Start beat again. Two of them do no harm.",
    ),
    Rule(
        name="worker_silent",
        label="One worker among several ends no task",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.SECONDS,
        raise_at=300,
        clear_at=60,
        causes=("broker_away", "workers_silent"),
        title="{who} has done nothing for {value}, while others have",
        means="The others do its work. It may hold connections, and it may have been killed.",
        next_step="Restart it. One that is gone for good is forgotten after an hour.",
    ),
    Rule(
        name="rules_not_asked",
        label="Rules cannot be asked",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        hold=_minutes(5),
        again=timedelta(hours=6),
        title="{value} alert rules cannot be asked",
        title_of_one="An alert rule cannot be asked",
        means="What these rules would tell is not told.",
        next_step="Look at Machine room > Rule checks for the error. A question is given up after 5 seconds.",
    ),
    Rule(
        name="clock_differs",
        label="A machine's clock is wrong",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.SECONDS,
        raise_at=5,
        clear_at=2,
        hold=_minutes(2),
        title="The clock of {who} differs from the database's by {value}",
        means="What is due is decided by the database's clock, so nothing goes wrong. Logs are hard to read, and signatures "
        "of webhooks may be refused by their receivers.",
        next_step="Let the machine keep its time (NTP).",
    ),
    Rule(
        name="invariant_broken",
        label="An invariant is broken",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        severity="critical",
        again=timedelta(hours=1),
        title="{value} of the invariants are broken",
        title_of_one="An invariant is broken",
        means="The books contradict themselves: an error of ours, never of a store.",
        next_step="Look at Machine room > Audit results, keep the rows and the logs, change nothing by SQL, and report it.",
    ),
    Rule(
        name="audit_overdue",
        label="The hourly audit does not come",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.HOURS,
        raise_at=3,
        clear_at=2,
        causes=_STANDSTILL,
        title="An invariant was last asked for {value} ago",
        means="Whether the books hold is not known.",
        next_step="Look whether Audit is switched off in the schedule, or a question takes longer than a minute.",
    ),
    Rule(
        name="database_growth",
        label="The database grows fast",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.PERCENT,
        raise_at=20,
        clear_at=10,
        hold=_minutes(30),
        again=timedelta(days=1),
        title="The database grew by {value} in a day",
        means="It grows faster than sales explain, by a gigabyte at least. A full disk stops everything.",
        next_step="Look at the free disk space first, then at the largest tables.",
    ),
    Rule(
        name="backlog_growth",
        label="More comes in than is done",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.COUNT,
        raise_at=5_000,
        clear_at=500,
        causes=_STANDSTILL,
        title="{value} more things wait than a quarter of an hour ago",
        means="Events or numbers come in faster than they are worked off.",
        next_step="Look at the inbox and at the levels out of step, whose they are. More workers help if all stores answer.",
    ),
    Rule(
        name="redis_memory",
        label="Redis is nearly full",
        kind="machine",
        about=About.INSTALLATION,
        unit=Unit.PERCENT,
        raise_at=85,
        clear_at=70,
        critical_at=95,
        hold=_minutes(2),
        title="Redis uses {value} of its memory",
        means="Full, it takes no more messages. Nothing is lost; everything becomes slower.",
        next_step="Give it more memory, or look what fills it. It may be emptied at any time.",
    ),
    Rule(
        name="authorization",
        label="A channel needs to be authorized",
        kind="channels",
        about=About.CHANNEL,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        severity="critical",
        title="{who} does not let us in any more",
        means="Its sales are learnt of late or not at all, and it is not written to: it may sell what is gone.",
        next_step="Authorize the store again under Channels.",
    ),
    Rule(
        name="channel_outage",
        label="A channel does not answer",
        kind="channels",
        about=About.CHANNEL,
        unit=Unit.SECONDS,
        raise_at=1,
        clear_at=0,
        critical_at=1_800,
        # Pending from the first failure: what follows from an outage waits for it.
        hold=_minutes(2),
        causes=(*_STANDSTILL, "authorization"),
        title="{who} has not answered for {value}",
        means="It is asked again by itself, and its numbers follow when it answers. The other stores go on; what this one "
        "may sell meanwhile is kept out of their reach.",
        next_step="Nothing, if the store's own status page says so too. Else read the error.",
    ),
    Rule(
        name="token_expiring",
        label="A channel's permission ends soon",
        kind="channels",
        about=About.CHANNEL,
        unit=Unit.HOURS,
        raise_at=72,
        clear_at=96,
        critical_at=12,
        causes=("authorization",),
        title="The permission of {who} ends in {value}",
        means="It cannot be renewed by itself. When it has ended, the store is neither read nor written.",
        next_step="Authorize the store again under Channels before that.",
    ),
    Rule(
        name="subscription_lost",
        label="A webhook subscription was gone",
        kind="channels",
        about=About.CHANNEL,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        causes=_STORE_AWAY,
        title="{who} had lost {value} webhook subscriptions",
        title_of_one="{who} had lost a webhook subscription",
        means="They are made again, and the orders of the gap are read; the alert ends when that is done.",
        next_step="Nothing at first. If it comes again, look who removes them: another app, or an uninstallation.",
    ),
    Rule(
        name="writing_stopped",
        label="A channel has not been written to for long",
        kind="channels",
        about=About.CHANNEL,
        unit=Unit.SECONDS,
        raise_at=3_600,
        clear_at=300,
        causes=_STORE_AWAY,
        title="{who} has waited for its numbers for {value}",
        means="The channel is paused, or refuses what it is told. It shows old numbers.",
        next_step="Resume the channel, or open its levels behind and read the error.",
    ),
    Rule(
        name="reconcile_overdue",
        label="A reconciliation is overdue",
        kind="channels",
        about=About.CHANNEL,
        unit=Unit.HOURS,
        raise_at=9,
        clear_at=5,
        causes=_STORE_AWAY,
        title="{who} was last compared {value} ago",
        means="What no webhook told of is not noticed.",
        next_step="Press Reconcile now on the channel, and look under Reconciliations why the last pass ended.",
    ),
    Rule(
        name="drift_alarm",
        label="A channel has drifted so far that nothing is raised there",
        kind="sync",
        about=About.CHANNEL,
        unit=Unit.PERCENT,
        # How far is too far is the channel's own setting: an alarm that was raised is one.
        raise_at=0.1,
        clear_at=0,
        critical_at=10,
        causes=_STORE_AWAY,
        title="{value} of {who}'s numbers differed: nothing is raised there for now",
        means="Webhooks were lost, or somebody or something else writes stock there: another app, an import, a person. "
        "Lowers go on.",
        next_step="Open the reconciliation and look at the causes of its drifts. Let raises go on when they are understood; "
        "a clean reconciliation does so by itself.",
    ),
    Rule(
        name="changes_held",
        label="Big changes wait for somebody's word",
        kind="sync",
        about=About.CHANNEL,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        causes=(),
        title="{value} changes to what {who} shows are held",
        title_of_one="A change to what {who} shows is held",
        means="So many listings would go to zero or change by more than half that it may be a mistake: a lost mapping, a "
        "warehouse switched off, a bad import. Until then the store shows the former numbers, less what is sold.",
        next_step="Open what is held. Confirm it, or put right what was changed: then it ends by itself.",
    ),
    Rule(
        name="dead_letters",
        label="Events or writes were given up",
        kind="sync",
        about=About.CHANNEL,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        critical_at=100,
        # Longer than an outage takes to be noticed: then they follow from it.
        hold=_minutes(1),
        again=timedelta(hours=1),
        causes=_STORE_AWAY,
        title="{value} events or writes of {who} were given up",
        title_of_one="An event or a write of {who} was given up",
        means="They were tried six times. The stock they tell of is not booked, or not shown, until they are applied again.",
        next_step="Open them, read the reason they share, mend it, and apply them again.",
    ),
    Rule(
        name="queue_lag",
        label="Events wait",
        kind="sync",
        about=About.CHANNEL,
        unit=Unit.SECONDS,
        raise_at=60,
        clear_at=10,
        critical_at=900,
        hold=timedelta(seconds=30),
        causes=_STORE_AWAY,
        title="The oldest event of {who} has waited for {value}",
        means="Sales of this store are carried to the others late.",
        next_step="Look at the event's reason in the inbox. None: more workers.",
    ),
    Rule(
        name="sync_latency",
        label="Sales arrive late (p95)",
        kind="sync",
        about=About.CHANNEL,
        unit=Unit.SECONDS,
        raise_at=30,
        clear_at=15,
        critical_at=300,
        hold=_minutes(2),
        causes=(*_STORE_AWAY, "queue_lag"),
        title="One in twenty numbers reaches {who} after more than {value}",
        means="The promise is a second; 30 seconds are the most that is well. Meanwhile more may be sold than there is.",
        next_step="Look at the column since its event under Pushes. Mostly it is the store's own budget of calls.",
    ),
    Rule(
        name="sync_latency_worst",
        label="Some sales arrive very late (p99)",
        kind="sync",
        about=About.CHANNEL,
        unit=Unit.SECONDS,
        raise_at=60,
        clear_at=30,
        hold=_minutes(2),
        causes=(*_STORE_AWAY, "queue_lag", "sync_latency"),
        title="One in a hundred numbers reaches {who} after more than {value}",
        means="A few SKUs are late while the others are well.",
        next_step="Look under Pushes which ones: a SKU in many listings, or a level the store refuses.",
    ),
    Rule(
        name="accuracy",
        label="Numbers are wrong",
        kind="sync",
        about=About.CHANNEL,
        unit=Unit.PERCENT,
        raise_at=99.49,
        clear_at=99.8,
        critical_at=95,
        hold=_minutes(5),
        causes=(*_STORE_AWAY, "writing_stopped", "drift_alarm", "queue_lag"),
        every=_minutes(5),
        title="{value} of {who}'s numbers are right",
        means="Those that changed within the last minute are not counted. 99.5 % is the least that is well.",
        next_step="Open the listing levels that are behind or suspect, and read what they say.",
    ),
    Rule(
        name="shortage",
        label="Units were sold beyond stock",
        kind="stock",
        about=About.MERCHANT,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        severity="critical",
        again=_minutes(10),
        title="{value} units were sold that are not there",
        title_of_one="A unit was sold that is not there",
        means="An order cannot be shipped from stock.",
        next_step="Open the shortages. Buy, move or count stock, or tell the customer; then look which store sold it.",
    ),
    Rule(
        name="low_stock",
        label="SKUs are low",
        kind="stock",
        about=About.MERCHANT,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        again=timedelta(hours=6),
        every=_minutes(1),
        title="{value} SKUs are low",
        title_of_one="A SKU is low",
        means="As many or fewer are available as the SKU's own threshold says.",
        next_step="Order them, or lower the threshold on the SKU's page.",
    ),
    Rule(
        name="reorder",
        label="SKUs are to be reordered",
        kind="stock",
        about=About.MERCHANT,
        unit=Unit.COUNT,
        raise_at=1,
        clear_at=0,
        severity="info",
        again=timedelta(hours=12),
        every=_minutes(5),
        title="{value} SKUs have reached their reorder point",
        title_of_one="A SKU has reached its reorder point",
        means="What is in stock and in transit lasts about as long as new goods take to come.",
        next_step="Order the quantities named. They follow from the SKU's page and from how fast it sells.",
    ),
    Rule(
        name="target_failing",
        label="Somebody cannot be told",
        kind="sync",
        about=About.MERCHANT,
        unit=Unit.SECONDS,
        raise_at=60,
        clear_at=0,
        again=timedelta(hours=12),
        title="{who} has not taken what it was told for {value}",
        means="Alerts do not reach it. They are tried again, and wait.",
        next_step="Open the target, read the answer, mend it, and send a test.",
    ),
)

BY_NAME: Final = {rule.name: rule for rule in RULES}

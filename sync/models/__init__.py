"""The engine's own records, by subject; whoever needs one imports it from here."""

from __future__ import annotations

from sync.models.alerts import Alert, AlertState, RuleCheck, RuleOverride
from sync.models.findings import (
    TIMING,
    Cause,
    DailyReport,
    Difference,
    Drift,
    DriftAction,
    ReconcileRun,
    ReportMail,
    RunKind,
    RunState,
)
from sync.models.letters import JOB_UNDER_WAY, Attempt, DeadLetter, FailureCause, Job, JobState, LetterState
from sync.models.lines import Allocation, DirtySku, OrderLine, Placement
from sync.models.machine import AuditResult, Heartbeat, ProcessBeat, SizeSample
from sync.models.restraint import HeldLevel, HeldState, HoldKind, HoldState, PushHold, ShadowReport, ShadowWrite
from sync.models.scores import BufferUse, Presence, ScorecardDay

__all__ = [
    "JOB_UNDER_WAY",
    "TIMING",
    "Alert",
    "AlertState",
    "Allocation",
    "Attempt",
    "AuditResult",
    "BufferUse",
    "Cause",
    "DailyReport",
    "DeadLetter",
    "Difference",
    "DirtySku",
    "Drift",
    "DriftAction",
    "FailureCause",
    "Heartbeat",
    "HeldLevel",
    "HeldState",
    "HoldKind",
    "HoldState",
    "Job",
    "JobState",
    "LetterState",
    "OrderLine",
    "Placement",
    "Presence",
    "ProcessBeat",
    "PushHold",
    "ReconcileRun",
    "ReportMail",
    "RuleCheck",
    "RuleOverride",
    "RunKind",
    "RunState",
    "ScorecardDay",
    "ShadowReport",
    "ShadowWrite",
    "SizeSample",
]

"""The API of those who look after the sync: dead letters, jobs, replays, having listings read again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from django.db import transaction
from django.http import Http404, HttpResponse
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from channels.models import EventState
from merchants.api import (
    ApiView,
    Moment,
    PageQuery,
    Problem,
    StrictBoolean,
    StrictInteger,
    StrictSerializer,
    StrictText,
    decode_cursor,
    encode_cursor,
    read,
    read_query,
)
from merchants.models import Scope
from sync import jobs, letters, remedies, replays, resync, tasks
from sync.models import DeadLetter, FailureCause, Job, LetterState
from synctec.lib import clock

_BIGINT_MAX = 2**63 - 1


def _number(help_text: str) -> StrictInteger:
    return StrictInteger(required=False, min_value=1, max_value=_BIGINT_MAX, help_text=help_text)


# --- jobs ---------------------------------------------------------------------------------------------------


class JobShown(serializers.ModelSerializer[Job]):
    """A job and how far it is."""

    title = serializers.SerializerMethodField()

    class Meta:
        model = Job
        fields = (
            "id",
            "kind",
            "title",
            "state",
            "preview",
            "total",
            "done",
            "changed",
            "failed",
            "tally",
            "result",
            "error",
            "correlation_id",
            "created_at",
            "started_at",
            "finished_at",
        )

    def get_title(self, job: Job) -> str:
        return jobs.title_of(job)


class JobPage(serializers.Serializer[Any]):
    """Jobs, newest first."""

    jobs = JobShown(many=True)
    next = serializers.CharField(allow_null=True, help_text="The cursor of the next page; null at the end.")


class PreviewShown(serializers.Serializer[Any]):
    """What a dry run found: nothing was changed."""

    count = serializers.IntegerField()
    preview = serializers.CharField()


class Reason(StrictSerializer):
    """Why, for the audit trail."""

    reason = StrictText(max_length=500, required=False, allow_blank=True, default="")


class _RepairView(ApiView):
    """Starts jobs and says why one was not."""

    def start(self, request: Request, kind: str, asked: dict[str, Any], reason: str) -> HttpResponse:
        """Make the job once (202), or say what it would do (200)."""
        is_dry_run = asked.pop("dry_run")
        about: dict[str, Any] = {"merchant_id": self.merchant.pk, "kind": kind, "said": asked}
        if is_dry_run:
            return self.refusing(request, lambda: (200, _shown_preview(jobs.preview(**about))))
        return self.refusing(
            request,
            lambda: (202, JobShown(jobs.create(**about, api_key=self.key, reason=reason)).data),
        )

    def refusing(self, request: Request, act: Callable[[], tuple[int, Any]]) -> HttpResponse:
        """Do it once; what cannot be is told by the name of its field."""
        try:
            return self.once(request, act)
        except jobs.BadParameters as error:
            raise exceptions.ValidationError({error.name: [str(error)]}) from None
        except jobs.NothingToDo as error:
            raise Problem(422, "nothing-to-do", str(error)) from None
        except letters.CannotChange as error:
            raise Problem(409, "cannot-change", str(error)) from None


def _shown_preview(preview: jobs.Preview) -> dict[str, Any]:
    return {"count": preview.count, "preview": preview.words}


class JobsView(ApiView):
    """Jobs."""

    scopes = {"GET": Scope.SYNC_READ}

    @extend_schema(operation_id="jobs_list", parameters=[PageQuery], responses=JobPage)
    def get(self, request: Request) -> Response:
        """Jobs, newest first."""
        asked = read_query(PageQuery, request)
        rows = Job.objects.filter(merchant=self.merchant).order_by("-id")
        if asked["cursor"]:
            rows = rows.filter(pk__lt=decode_cursor(asked["cursor"], parts=1)[0])
        found = list(rows[: asked["limit"] + 1])
        page = found[: asked["limit"]]
        following = encode_cursor(page[-1].pk) if len(found) > len(page) else None
        return Response({"jobs": JobShown(page, many=True).data, "next": following})


class JobView(ApiView):
    """One job."""

    scopes = {"GET": Scope.SYNC_READ}

    @extend_schema(responses=JobShown)
    def get(self, request: Request, job_id: int) -> Response:
        """One job and how far it is. Ask again until `finished_at` is set."""
        return Response(JobShown(_job(self, job_id)).data)


class JobCancellationView(_RepairView):
    """The early end of a job."""

    scopes = {"POST": Scope.SYNC_WRITE}

    @extend_schema(request=Reason, responses=JobShown)
    def post(self, request: Request, job_id: int) -> HttpResponse:
        """End a job after the batch that is under way. What was done stays done; a job that has ended is left as it is."""
        job = _job(self, job_id)
        asked = read(Reason, request.data)

        def act() -> tuple[int, Any]:
            jobs.cancel(job=job, api_key=self.key, reason=asked["reason"])
            job.refresh_from_db()
            return 200, JobShown(job).data

        return self.refusing(request, act)


def _job(view: ApiView, job_id: int) -> Job:
    """The merchant's job. Raises Http404, the same for another's and for none."""
    job = Job.objects.filter(merchant=view.merchant, pk=job_id).first() if job_id <= _BIGINT_MAX else None
    if job is None:
        raise Http404("There is no such job.")
    return job


# --- dead letters -------------------------------------------------------------------------------------------


class AttemptShown(serializers.Serializer[Any]):
    """One attempt that failed."""

    number = serializers.IntegerField()
    started_at = serializers.DateTimeField(allow_null=True)
    seconds = serializers.FloatField(allow_null=True, help_text="How long it took; null where nobody knows.")
    request = serializers.CharField(help_text="What was asked for.")
    answer = serializers.CharField()


class LetterShown(serializers.ModelSerializer[DeadLetter]):
    """A dead letter: what was given up, why, and what to do."""

    channel = serializers.CharField(source="channel.name")
    channel_id = serializers.IntegerField()
    event_id = serializers.IntegerField(allow_null=True)
    listing_level_id = serializers.IntegerField(allow_null=True)
    subject = serializers.SerializerMethodField(help_text="What it is about, in words.")
    explanation = serializers.SerializerMethodField()
    action = serializers.SerializerMethodField(help_text="What to do about it.")

    class Meta:
        model = DeadLetter
        fields: tuple[str, ...] = (
            "id",
            "channel",
            "channel_id",
            "event_id",
            "listing_level_id",
            "subject",
            "cause",
            "code",
            "said",
            "explanation",
            "action",
            "attempts",
            "state",
            "correlation_id",
            "opened_at",
            "ended_at",
            "outcome",
            "retries",
            "retried_at",
            "dismissed_at",
            "dismissed_because",
        )

    def get_subject(self, letter: DeadLetter) -> str:
        return letters.subject(letter)

    def get_explanation(self, letter: DeadLetter) -> str:
        return remedies.remedy(letter.cause, letter.code).explanation

    def get_action(self, letter: DeadLetter) -> str:
        return remedies.remedy(letter.cause, letter.code).action


class LetterWithAttempts(LetterShown):
    """A dead letter with what it went through, newest first."""

    tries = serializers.SerializerMethodField()

    class Meta:
        model = DeadLetter
        fields: tuple[str, ...] = (*LetterShown.Meta.fields, "tries")

    @extend_schema_field(AttemptShown(many=True))
    def get_tries(self, letter: DeadLetter) -> Any:
        return AttemptShown(letters.attempts(letter), many=True).data


class LetterPage(serializers.Serializer[Any]):
    """Dead letters, newest first."""

    dead_letters = LetterShown(many=True)
    next = serializers.CharField(allow_null=True, help_text="The cursor of the next page; null at the end.")


class LetterQuery(PageQuery):
    """Which dead letters."""

    state = serializers.ChoiceField(choices=LetterState.choices, required=False)
    cause = serializers.ChoiceField(choices=FailureCause.choices, required=False)
    channel = serializers.IntegerField(required=False, min_value=1, max_value=_BIGINT_MAX)


class Dismissal(StrictSerializer):
    """Why nobody need do anything about it."""

    reason = StrictText(max_length=500)


class LetterChoice(StrictSerializer):
    """Which dead letters: all that need somebody, or those that fit."""

    channel = _number("Of the channel with this number.")
    cause = serializers.ChoiceField(choices=FailureCause.choices, required=False)
    code = StrictText(max_length=80, required=False, allow_blank=True, help_text="Of this kind within the cause.")
    since = Moment(required=False, help_text="Opened since.")
    dry_run = StrictBoolean(required=False, default=False, help_text="Only say what would be done.")
    reason = StrictText(max_length=500, required=False, allow_blank=True, default="")


_LETTERS = ("channel", "listing_level__listing", "listing_level__store_location")


class LettersView(ApiView):
    """Dead letters."""

    scopes = {"GET": Scope.SYNC_READ}

    @extend_schema(operation_id="dead_letters_list", parameters=[LetterQuery], responses=LetterPage)
    def get(self, request: Request) -> Response:
        """What was given up: events that could not be applied, and levels whose numbers do not reach their stores.

        `state=open` are those that need somebody.
        """
        asked = read_query(LetterQuery, request)
        rows = DeadLetter.objects.filter(merchant=self.merchant).select_related(*_LETTERS).order_by("-id")
        rows = rows.filter(**{name: asked[name] for name in ("state", "cause", "channel") if name in asked})
        if asked["cursor"]:
            rows = rows.filter(pk__lt=decode_cursor(asked["cursor"], parts=1)[0])
        found = list(rows[: asked["limit"] + 1])
        page = found[: asked["limit"]]
        following = encode_cursor(page[-1].pk) if len(found) > len(page) else None
        return Response({"dead_letters": LetterShown(page, many=True).data, "next": following})


class LetterView(ApiView):
    """One dead letter."""

    scopes = {"GET": Scope.SYNC_READ}

    @extend_schema(responses=LetterWithAttempts)
    def get(self, request: Request, letter_id: int) -> Response:
        """One dead letter with its attempts."""
        return Response(LetterWithAttempts(_letter(self, letter_id)).data)


class _LetterActView(_RepairView):
    scopes = {"POST": Scope.SYNC_WRITE}

    def done(self, request: Request, letter: DeadLetter, act: Callable[[], object]) -> HttpResponse:
        """Do it once and show the letter as it then is."""

        def act_and_show() -> tuple[int, Any]:
            act()
            return 200, LetterShown(_letter(self, letter.pk)).data

        return self.refusing(request, act_and_show)


class LetterRetryView(_LetterActView):
    """Another try of one."""

    @extend_schema(request=None, responses=LetterShown)
    def post(self, request: Request, letter_id: int) -> HttpResponse:
        """Try it again at once. Safe: what was done already is not done twice."""
        letter = _letter(self, letter_id)

        def retry() -> None:
            for channel_id in letters.retry(letter=letter, api_key=self.key):
                transaction.on_commit(partial(tasks.ring_push, channel_id))

        return self.done(request, letter, retry)


class LetterDismissalView(_LetterActView):
    """The decision to leave one."""

    @extend_schema(request=Dismissal, responses=LetterShown)
    def post(self, request: Request, letter_id: int) -> HttpResponse:
        """Say that nobody need do anything about it. `reopening` takes it back."""
        letter = _letter(self, letter_id)
        reason = read(Dismissal, request.data)["reason"]
        return self.done(
            request,
            letter,
            lambda: letters.dismiss(letter=letter, reason=reason, api_key=self.key, now=clock.now()),
        )


class LetterReopeningView(_LetterActView):
    """The end of a dismissal."""

    @extend_schema(request=None, responses=LetterShown)
    def post(self, request: Request, letter_id: int) -> HttpResponse:
        """Take a dismissal back."""
        letter = _letter(self, letter_id)
        return self.done(request, letter, lambda: letters.reopen(letter=letter, api_key=self.key))


class LetterRetriesView(_RepairView):
    """Another try of many."""

    scopes = {"POST": Scope.SYNC_WRITE}

    @extend_schema(request=LetterChoice, responses={200: PreviewShown, 202: JobShown})
    def post(self, request: Request) -> HttpResponse:
        """Try again all that fit, as a job; with `dry_run` only count them."""
        asked = read(LetterChoice, request.data)
        return self.start(request, letters.RETRY.name, asked, asked.pop("reason"))


def _letter(view: ApiView, letter_id: int) -> DeadLetter:
    """The merchant's dead letter. Raises Http404, the same for another's and for none."""
    letters_of = DeadLetter.objects.filter(merchant=view.merchant).select_related(*_LETTERS)
    letter = letters_of.filter(pk=letter_id).first() if letter_id <= _BIGINT_MAX else None
    if letter is None:
        raise Http404("There is no such dead letter.")
    return letter


# --- replays and readings -----------------------------------------------------------------------------------


class EventChoice(StrictSerializer):
    """Which events. What is left out does not narrow the choice; one field at least must be there."""

    ids = serializers.ListField(
        child=StrictInteger(min_value=1, max_value=_BIGINT_MAX), required=False, min_length=1, max_length=1_000
    )
    channel = _number("Of the channel with this number.")
    topic = StrictText(max_length=80, required=False, help_text="Such as orders/create.")
    states = serializers.ListField(
        child=serializers.ChoiceField(choices=[EventState.APPLIED, EventState.IGNORED, EventState.DEAD]),
        required=False,
        min_length=1,
    )
    reason_holds = StrictText(max_length=200, required=False, help_text="Whose reason holds this text.")
    about = StrictText(max_length=120, required=False, help_text="Of this order or SKU.")
    since = Moment(required=False, help_text="Received since.")
    until = Moment(required=False, help_text="Received until.")
    dry_run = StrictBoolean(required=False, default=False, help_text="Only say what would be done.")
    reason = StrictText(max_length=500, required=False, allow_blank=True, default="", help_text="Why, for the trail.")


class ReplaysView(_RepairView):
    """Replays of the event log."""

    scopes = {"POST": Scope.SYNC_WRITE}

    @extend_schema(request=EventChoice, responses={200: PreviewShown, 202: JobShown})
    def post(self, request: Request) -> HttpResponse:
        """Apply events once more, as a job; with `dry_run` only count them.

        Always safe: an order event is the state of an order, so applying it again moves stock only if it was not known yet.
        `changed` of the job counts the events that did.
        """
        asked = read(EventChoice, request.data)
        why = asked.pop("reason")
        if "reason_holds" in asked:
            asked["reason"] = asked.pop("reason_holds")
        return self.start(request, replays.REPLAY.name, asked, why)


class Readable(StrictSerializer):
    """What is to be read. Several fields narrow it down; one at least must be there."""

    level = _number("One listing level.")
    listing = _number("All levels of a listing.")
    sku = StrictText(max_length=100, required=False, help_text="All levels of a SKU, by its code.")
    channel = _number("All levels of a channel.")
    group = _number("All levels of a location group.")
    reason = StrictText(max_length=500, required=False, allow_blank=True, default="")


class ResyncShown(serializers.Serializer[Any]):
    """How many levels are read, and the job that does it where they are many."""

    levels = serializers.IntegerField()
    job = JobShown(allow_null=True)


class ResyncsView(_RepairView):
    """Readings on a program's word."""

    scopes = {"POST": Scope.SYNC_WRITE}

    @extend_schema(request=Readable, responses={202: ResyncShown})
    def post(self, request: Request) -> HttpResponse:
        """Have stores read again, and written where they differ: up to 100 levels at once, more as a job."""
        asked = read(Readable, request.data)
        reason = asked.pop("reason")

        def act() -> tuple[int, Any]:
            done = resync.ask(merchant_id=self.merchant.pk, said=asked, api_key=self.key, reason=reason)
            for channel_id in done.channels:
                transaction.on_commit(partial(tasks.ring_check, channel_id))
            return 202, {"levels": done.levels, "job": JobShown(done.job).data if done.job else None}

        return self.refusing(request, act)

"""Sending e-mail: the one way a letter leaves this system.

Whoever calls has committed what is to be sent, and writes down what came of it: nothing is kept or tried again here.
"""

from __future__ import annotations

import smtplib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.core.mail import EmailMultiAlternatives, get_connection
from django.db.models import QuerySet

from merchants.models import Member, Role

SUBJECT_LENGTH_MAX: Final = 150


class MailNotSent(Exception):
    """The mail server did not take a letter; the text says why, without its password."""


class AddressRefused(MailNotSent):
    """The server would take letters, but not to this address."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes along, such as a report as CSV."""

    name: str
    content: str
    kind: str = "text/csv"


def send(
    to: Sequence[str],
    *,
    subject: str,
    text: str,
    html: str = "",
    message_id: str = "",
    attachments: Sequence[Attachment] = (),
) -> None:
    """Hand a letter to the mail server, each address getting one of its own; `message_id` is the same when it is sent again.

    Raises:
        MailNotSent: no mail server is set, or it did not take the letter to one of them.
    """
    if not settings.EMAIL_HOST:
        raise MailNotSent("No mail server is set. Set EMAIL_HOST.")
    # A line break in a header would begin another header.
    line = " ".join(subject.split())[:SUBJECT_LENGTH_MAX]
    headers = {"Message-ID": f"<{message_id}@{settings.EMAIL_DOMAIN}>"} if message_id else {}
    letters = []
    for address in to:
        letter = EmailMultiAlternatives(line, text, settings.DEFAULT_FROM_EMAIL, [address], headers=headers)
        if html:
            letter.attach_alternative(html, "text/html")
        for attachment in attachments:
            letter.attach(attachment.name, attachment.content, attachment.kind)
        letters.append(letter)
    try:
        with get_connection() as server:
            for letter in letters:
                server.send_messages([letter])
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error if isinstance(error.smtp_error, str) else error.smtp_error.decode("utf-8", "replace")
        raise MailNotSent(f"The mail server answered {error.smtp_code}: {' '.join(said.split())[:200]}") from None
    except smtplib.SMTPRecipientsRefused:
        raise AddressRefused("The mail server refused the address.") from None
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise MailNotSent(f"The mail server did not take it: {type(error).__name__}") from None


def members_of(merchant_id: int, *, minimum: Role = Role.VIEWER) -> list[str]:
    """The e-mail addresses of a merchant's people of a role and above who may sign in, in order."""
    roles = list(Role)[: list(Role).index(minimum) + 1]
    members: QuerySet[Member] = Member.objects.filter(merchant_id=merchant_id, role__in=roles, user__is_active=True)
    return list(members.order_by("user__email").values_list("user__email", flat=True))


def send_to_members(
    merchant_id: int,
    *,
    subject: str,
    text: str,
    html: str = "",
    minimum: Role = Role.MANAGER,
    attachments: Sequence[Attachment] = (),
) -> int:
    """Send a letter to a merchant's people of a role and above; to how many it went.

    Raises:
        MailNotSent: as `send`.
    """
    people = members_of(merchant_id, minimum=minimum)
    if people:
        send(people, subject=subject, text=text, html=html, attachments=attachments)
    return len(people)

"""Seal every channel's secrets with the newest key."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from channels import credentials


class Command(BaseCommand):
    help = (
        "Seal all channel secrets with the first key of CREDENTIAL_KEYS. Put a new key first, restart, run "
        "this, then take the old key away and restart. May be interrupted and run again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        report = credentials.rotate_all()
        self.stdout.write(f"{report.resealed} rows sealed anew, {report.current} were current.")
        for pk, why in report.unreadable:
            self.stderr.write(f"credential {pk}: {why}")
        if report.unreadable:
            raise CommandError(
                f"{len(report.unreadable)} rows do not open: bring their key back, or connect these channels again."
            )

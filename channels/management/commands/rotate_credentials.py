"""Seal the secrets of channels, webhook endpoints and notification targets with the newest key."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from channels import credentials
from inventory import delivery
from merchants import targets


class Command(BaseCommand):
    help = (
        "Seal all secrets of channels, webhook endpoints and notification targets with the first key of "
        "CREDENTIAL_KEYS. Put a new key first, restart, run this, then take the old key away and restart. May be "
        "interrupted and run again."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        report = credentials.rotate_all()
        self.stdout.write(f"{report.resealed} rows sealed anew, {report.current} were current.")
        for pk, why in report.unreadable:
            self.stderr.write(f"credential {pk}: {why}")
        endpoints_resealed, endpoints_unreadable = delivery.reseal_all()
        self.stdout.write(f"{endpoints_resealed} webhook endpoints sealed anew.")
        for pk, why in endpoints_unreadable:
            self.stderr.write(f"webhook endpoint {pk}: {why}")
        targets_resealed, targets_unreadable = targets.reseal_all()
        self.stdout.write(f"{targets_resealed} notification targets sealed anew.")
        for pk, why in targets_unreadable:
            self.stderr.write(f"notification target {pk}: {why}")
        if endpoints_unreadable or targets_unreadable:
            raise CommandError(
                "Secrets of webhook endpoints or targets do not open: bring their key back, or make new ones."
            )
        if report.unreadable:
            raise CommandError(
                f"{len(report.unreadable)} rows do not open: bring their key back, or connect these channels again."
            )

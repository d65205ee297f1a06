from __future__ import annotations

from django.apps import AppConfig


class SyncConfig(AppConfig):
    name = "sync"

    def ready(self) -> None:
        """Hang the engine on the hooks of the apps below, which must not import it."""
        from sync import hooks

        hooks.attach()

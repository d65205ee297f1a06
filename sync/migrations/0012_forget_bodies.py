from django.db import migrations

EVERY_SECONDS = 3600


def create_schedule(apps, schema_editor):
    """A row, not a setting: people may change it in the admin, and a restart keeps what they chose."""
    interval, _ = apps.get_model("django_celery_beat", "IntervalSchedule").objects.get_or_create(
        every=EVERY_SECONDS, period="seconds"
    )
    # A ring nobody answered in time is worth nothing: the next one comes anyway.
    apps.get_model("django_celery_beat", "PeriodicTask").objects.get_or_create(
        name="Inbox: forget bodies that have served their time",
        defaults={"task": "sync.tasks.forget_bodies", "interval": interval, "expire_seconds": EVERY_SECONDS},
    )


class Migration(migrations.Migration):
    dependencies = [
        ("sync", "0011_waits_without_variant"),
        ("channels", "0014_bodies_apart"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]

    operations = [
        migrations.RunPython(create_schedule, migrations.RunPython.noop),
    ]

from django.db import migrations, models

AUDIT_EVERY_SECONDS = 3600


def create_schedule(apps, schema_editor):
    """A row, not a setting: people may change it in the admin, and a restart keeps what they chose."""
    interval, _ = apps.get_model("django_celery_beat", "IntervalSchedule").objects.get_or_create(
        every=AUDIT_EVERY_SECONDS, period="seconds"
    )
    # A ring nobody answered in time is worth nothing: the next one comes anyway.
    apps.get_model("django_celery_beat", "PeriodicTask").objects.get_or_create(
        name="Audit: check that the invariants hold",
        defaults={"task": "sync.tasks.audit", "interval": interval, "expire_seconds": AUDIT_EVERY_SECONDS},
    )


class Migration(migrations.Migration):
    dependencies = [
        ("sync", "0008_waits_for_mappings"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]

    operations = [
        migrations.CreateModel(
            name="AuditResult",
            fields=[
                ("name", models.CharField(max_length=60, primary_key=True, serialize=False)),
                ("checked_at", models.DateTimeField()),
                ("seconds", models.FloatField()),
                ("broken_since", models.DateTimeField(blank=True, null=True)),
                ("offender", models.JSONField(blank=True, null=True)),
                (
                    "error",
                    models.CharField(
                        blank=True,
                        db_default="",
                        help_text="Why it could not be asked; the rest is from before.",
                        max_length=500,
                    ),
                ),
            ],
        ),
        migrations.RunPython(create_schedule, migrations.RunPython.noop),
    ]

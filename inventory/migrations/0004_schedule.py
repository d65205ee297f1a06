from django.db import migrations

DELIVER_EVERY_SECONDS = 3
PRUNE_EVERY_SECONDS = 3600


def create_schedule(apps, schema_editor):
    """Rows, not settings: people may change them in the admin, and a restart keeps what they chose."""
    interval_of = apps.get_model("django_celery_beat", "IntervalSchedule").objects
    task = apps.get_model("django_celery_beat", "PeriodicTask").objects
    for name, what, seconds in (
        ("Tell webhook endpoints of changes of stock", "inventory.tasks.sweep_endpoints", DELIVER_EVERY_SECONDS),
        ("Forget old answers and deliveries", "inventory.tasks.forget_old", PRUNE_EVERY_SECONDS),
    ):
        interval, _ = interval_of.get_or_create(every=seconds, period="seconds")
        # A ring nobody answered in time is worth nothing: the next one comes anyway.
        task.get_or_create(name=name, defaults={"task": what, "interval": interval, "expire_seconds": seconds})


class Migration(migrations.Migration):
    dependencies = [
        ("inventory", "0003_movements_everywhere"),
        ("django_celery_beat", "0019_alter_periodictasks_options"),
    ]

    operations = [migrations.RunPython(create_schedule, migrations.RunPython.noop)]

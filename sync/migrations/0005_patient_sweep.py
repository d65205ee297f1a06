from django.db import migrations

#: Workers that are busy for longer than this would find every ring expired, and never sweep.
EXPIRES_AFTER_SECONDS = 30


def let_sweeps_wait(apps, schema_editor):
    """Only where nobody chose otherwise."""
    tasks = apps.get_model("django_celery_beat", "PeriodicTask").objects
    tasks.filter(task="sync.tasks.sweep", expire_seconds=3).update(expire_seconds=EXPIRES_AFTER_SECONDS)


class Migration(migrations.Migration):
    dependencies = [("sync", "0004_merchant_by_reference"), ("django_celery_beat", "0019_alter_periodictasks_options")]

    operations = [migrations.RunPython(let_sweeps_wait, migrations.RunPython.noop)]

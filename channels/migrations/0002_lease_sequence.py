from django.db import migrations


class Migration(migrations.Migration):
    """Lease tokens are fences: they must grow for ever, whoever asks, so PostgreSQL hands them out."""

    dependencies = [("channels", "0001_initial")]

    operations = [
        migrations.RunSQL(sql="CREATE SEQUENCE channels_lease_token", reverse_sql="DROP SEQUENCE channels_lease_token")
    ]

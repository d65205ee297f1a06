from django.db import migrations

from merchants.tenancy import append_only


class Migration(migrations.Migration):
    dependencies = [("merchants", "0001_initial")]

    operations = [append_only("merchants_auditevent", name="audit_event_append_only")]

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('channels', '0006_merchant_by_reference'),
    ]

    operations = [
        migrations.AlterField(
            model_name='inboxevent',
            name='body',
            field=models.BinaryField(),
        ),
        # It arrives compressed: the server need not try.
        migrations.RunSQL(
            sql="ALTER TABLE channels_inboxevent ALTER COLUMN body SET STORAGE EXTERNAL",
            reverse_sql="ALTER TABLE channels_inboxevent ALTER COLUMN body SET STORAGE EXTENDED",
        ),
    ]

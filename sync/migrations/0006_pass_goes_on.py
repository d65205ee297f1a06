from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('sync', '0005_patient_sweep'),
    ]

    operations = [
        migrations.AddField(
            model_name='reconcilerun',
            name='compared_to',
            field=models.BigIntegerField(db_default=0, default=0, editable=False),
        ),
    ]

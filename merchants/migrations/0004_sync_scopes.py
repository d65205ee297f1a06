import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('merchants', '0003_api_keys'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='apikey',
            name='api_key_scopes_known',
        ),
        migrations.AlterField(
            model_name='apikey',
            name='scopes',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('stock:read', 'Read stock and transfers'), ('stock:write', 'Report movements, transfers and counts'), ('holds:write', 'Reserve stock'), ('feed:read', 'Follow every change of stock'), ('sync:read', 'Read dead letters and jobs'), ('sync:write', 'Try dead letters again, replay events, have listings read again')], max_length=20), size=None),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('scopes__contained_by', ['stock:read', 'stock:write', 'holds:write', 'feed:read', 'sync:read', 'sync:write']), ('scopes__len__gt', 0)), name='api_key_scopes_known'),
        ),
    ]

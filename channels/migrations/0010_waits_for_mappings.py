from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('channels', '0009_orders_cut_short'),
        ('merchants', '0003_api_keys'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='inboxevent',
            index=models.Index(condition=models.Q(('reason__startswith', 'unmapped '), ('state', 'ignored'), models.Q(('topic__startswith', 'inventory'), _negated=True)), fields=['channel', 'reason'], name='inbox_event_unmapped'),
        ),
    ]

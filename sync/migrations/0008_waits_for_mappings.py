from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('channels', '0010_waits_for_mappings'),
        ('inventory', '0008_merchant_by_reference'),
        ('merchants', '0003_api_keys'),
        ('sync', '0007_lines_of_a_level'),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='orderline',
            name='order_line_waiting',
        ),
        migrations.AddIndex(
            model_name='orderline',
            index=models.Index(condition=models.Q(('waiting_for', ''), _negated=True), fields=['channel', 'waiting_for'], name='order_line_waiting'),
        ),
    ]

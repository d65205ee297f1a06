from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("inventory", "0012_shortages_by_time"),
        ("merchants", "0007_notifications"),
    ]

    operations = [
        migrations.AddField(
            model_name='sku',
            name='lead_time_days',
            field=models.PositiveSmallIntegerField(blank=True, help_text='From the order to the units on the shelf.', null=True, verbose_name='lead time (days)'),
        ),
        migrations.AddField(
            model_name='sku',
            name='low_stock_at',
            field=models.PositiveIntegerField(blank=True, help_text='Alert when so many or fewer are available. Empty: never.', null=True, verbose_name='low stock at'),
        ),
        migrations.AddField(
            model_name='sku',
            name='reorder_point',
            field=models.PositiveIntegerField(blank=True, help_text='Order more at so many or fewer. Empty: what sells during the lead time, and the safety stock.', null=True),
        ),
        migrations.AddField(
            model_name='sku',
            name='reorder_quantity',
            field=models.PositiveIntegerField(blank=True, help_text='How many to order at once. Empty: up to the reorder point and what sells during another lead time.', null=True),
        ),
        migrations.AddField(
            model_name='sku',
            name='safety_stock',
            field=models.PositiveIntegerField(blank=True, help_text='Units to keep for demand or suppliers that surprise. Empty: none.', null=True),
        ),
        migrations.AddIndex(
            model_name='sku',
            index=models.Index(condition=models.Q(('low_stock_at__isnull', False), ('reorder_point__isnull', False), ('lead_time_days__isnull', False), _connector='OR'), fields=['merchant'], name='sku_watched'),
        ),
    ]

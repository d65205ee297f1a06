import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

import merchants.tenancy


class Migration(migrations.Migration):
    dependencies = [
        ("inventory", "0004_schedule"),
    ]

    operations = [
        migrations.AddField(
            model_name="sku",
            name="strategy",
            field=models.CharField(choices=[('atomic', 'Atomic: refused in memory, committed together'), ('optimistic', 'Optimistic: read, then write if nothing moved'), ('pessimistic', 'Pessimistic: locked while deciding')], db_default='atomic', default='atomic', max_length=12, verbose_name='holds are decided'),
        ),
        migrations.AddConstraint(
            model_name="sku",
            constraint=models.CheckConstraint(condition=models.Q(('strategy__in', ['atomic', 'optimistic', 'pessimistic'])), name='sku_strategy_known'),
        ),
        migrations.AddField(
            model_name="stocklevel",
            name="quota",
            field=models.IntegerField(blank=True, null=True, verbose_name='may be held through the API'),
        ),
        migrations.AddConstraint(
            model_name="stocklevel",
            constraint=models.CheckConstraint(condition=models.Q(('quota__gte', 0)), name='stock_level_quota_not_negative'),
        ),
        # The hold of one stock level had no rows anywhere: from here on, holds have parts.
        migrations.DeleteModel(name="Hold"),
        migrations.CreateModel(
            name="Hold",
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('sku', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='inventory.sku')),
                ('quantity', models.PositiveIntegerField()),
                ('state', models.CharField(choices=[('active', 'Active'), ('committed', 'Committed'), ('released', 'Released')], db_default='active', default='active', max_length=10)),
                ('idempotency_key', models.CharField(max_length=255)),
                ('asked_sha256', models.BinaryField(max_length=32)),
                ('reference', models.CharField(blank=True, max_length=200)),
                ('order_channel_id', models.BigIntegerField(blank=True, null=True, verbose_name='channel of the order')),
                ('order_id', models.CharField(blank=True, db_default='', max_length=64, verbose_name='order')),
                ('correlation_id', models.UUIDField()),
                ('expires_at', models.DateTimeField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('ended_at', models.DateTimeField(blank=True, null=True, verbose_name='its units were no longer held')),
            ],
            options={
                'constraints': [
                    models.UniqueConstraint(fields=('merchant', 'id'), name='hold_tenant_identity'),
                    merchants.tenancy.SameMerchant(field='sku', name='hold_sku_of_merchant'),
                    models.UniqueConstraint(fields=('merchant', 'idempotency_key'), name='hold_made_once'),
                    models.CheckConstraint(condition=models.Q(('quantity__gt', 0)), name='hold_quantity_positive'),
                    models.CheckConstraint(condition=models.Q(('state__in', ['active', 'committed', 'released'])), name='hold_state_known'),
                    models.CheckConstraint(condition=models.Q(models.Q(('ended_at', None), ('state', 'active')), models.Q(('ended_at__isnull', False), ('state', 'released')), models.Q(('state', 'committed'), models.Q(('ended_at__isnull', False), ('order_channel_id__isnull', False), _connector='OR')), _connector='OR'), name='hold_ends_with_its_state'),
                    models.CheckConstraint(condition=models.Q(models.Q(('order_channel_id', None), ('order_id', '')), models.Q(('order_channel_id__isnull', False), models.Q(('order_id', ''), _negated=True), models.Q(('state', 'active'), _negated=True)), _connector='OR'), name='hold_order_named_when_committed'),
                ],
                'indexes': [
                    models.Index(fields=['sku', '-id'], name='hold_by_sku'),
                    models.Index(condition=models.Q(('state', 'active')), fields=['expires_at'], name='hold_expiring'),
                    models.Index(condition=models.Q(('ended_at', None), ('state', 'committed')), fields=['order_channel_id', 'order_id'], name='hold_waiting_for_order'),
                ],
            },
        ),
        migrations.CreateModel(
            name="HoldPart",
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('hold', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='parts', to='inventory.hold')),
                ('stock_level', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='hold_parts', to='inventory.stocklevel')),
                ('quantity', models.PositiveIntegerField()),
                ('expires_at', models.DateTimeField(blank=True, editable=False, null=True)),
            ],
            options={
                'constraints': [
                    merchants.tenancy.SameMerchant(field='hold', name='hold_part_hold_of_merchant'),
                    merchants.tenancy.SameMerchant(field='stock_level', name='hold_part_stock_level_of_merchant'),
                    models.UniqueConstraint(fields=('hold', 'stock_level'), name='hold_part_once'),
                    models.CheckConstraint(condition=models.Q(('quantity__gt', 0)), name='hold_part_quantity_positive'),
                ],
                'indexes': [
                    models.Index(condition=models.Q(('expires_at__isnull', False)), fields=['stock_level', 'expires_at'], name='hold_part_expiring'),
                ],
            },
        ),
    ]

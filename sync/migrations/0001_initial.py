import django.db.models.deletion
import django.db.models.functions.datetime
import merchants.tenancy
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('locations', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='OrderLine',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.channel')),
                ('order_id', models.CharField(max_length=120)),
                ('line_id', models.CharField(max_length=120)),
                ('order_name', models.CharField(blank=True, max_length=80)),
                ('remote_variant_id', models.CharField(blank=True, max_length=120)),
                ('listing', models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='channels.listing')),
                ('sku', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='inventory.sku')),
                ('listing_level', models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='channels.listinglevel')),
                ('store_location', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='channels.storelocation')),
                ('facts', models.JSONField()),
                ('desired_committed', models.IntegerField()),
                ('desired_on_hand', models.IntegerField()),
                ('applied_committed', models.IntegerField(db_default=0, default=0)),
                ('applied_on_hand', models.IntegerField(db_default=0, default=0)),
                ('postings', models.PositiveIntegerField(db_default=0, default=0)),
                ('waiting_for', models.CharField(blank=True, db_default='', max_length=120)),
                ('latest_event', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='channels.inboxevent')),
                ('correlation_id', models.UUIDField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('waiting_for', ''), _negated=True), fields=['channel', 'id'], name='order_line_waiting'), models.Index(fields=['correlation_id'], name='order_line_by_correlation'), models.Index(fields=['sku', '-id'], name='order_line_by_sku')],
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='order_line_tenant_identity'), merchants.tenancy.SameMerchant(field='channel', name='order_line_channel_of_merchant'), merchants.tenancy.SameMerchant(field='sku', name='order_line_sku_of_merchant'), merchants.tenancy.SameMerchant(field='listing', name='order_line_listing_of_merchant'), merchants.tenancy.SameMerchant(field='listing_level', name='order_line_level_of_merchant'), merchants.tenancy.SameMerchant(field='store_location', name='order_line_location_of_merchant'), models.UniqueConstraint(fields=('channel', 'order_id', 'line_id'), name='order_line_once'), models.CheckConstraint(condition=models.Q(models.Q(('waiting_for', ''), _negated=True), models.Q(('applied_committed', models.F('desired_committed')), ('applied_on_hand', models.F('desired_on_hand'))), _connector='OR'), name='order_line_applied_is_desired'), models.CheckConstraint(condition=models.Q(('applied_committed__gte', 0)), name='order_line_committed_not_negative')],
            },
        ),
        migrations.CreateModel(
            name='Allocation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('order_line', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='allocations', to='sync.orderline')),
                ('stock_level', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='inventory.stocklevel')),
                ('units_per_line_unit', models.PositiveIntegerField(default=1)),
                ('committed', models.IntegerField(db_default=0, default=0)),
                ('on_hand', models.IntegerField(db_default=0, default=0)),
            ],
            options={
                'indexes': [models.Index(fields=['stock_level'], name='allocation_by_stock_level')],
                'constraints': [merchants.tenancy.SameMerchant(field='order_line', name='allocation_order_line_of_merchant'), merchants.tenancy.SameMerchant(field='stock_level', name='allocation_stock_level_of_merchant'), models.UniqueConstraint(fields=('order_line', 'stock_level'), name='allocation_once'), models.CheckConstraint(condition=models.Q(('committed__gte', 0)), name='allocation_committed_not_negative'), models.CheckConstraint(condition=models.Q(('units_per_line_unit__gt', 0)), name='allocation_units_positive')],
            },
        ),
        migrations.CreateModel(
            name='DirtySku',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('merchant', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('sku', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='inventory.sku')),
                ('correlation_id', models.UUIDField()),
                ('caused_at', models.DateTimeField(help_text='When the event behind it arrived: the start of the sync latency.')),
            ],
            options={
                'verbose_name': 'dirty SKU',
                'indexes': [models.Index(fields=['merchant', 'sku'], name='dirty_sku_by_merchant')],
                'constraints': [merchants.tenancy.SameMerchant(field='sku', name='dirty_sku_of_merchant')],
            },
        ),
        migrations.CreateModel(
            name='Drift',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.channel')),
                ('listing_level', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='drifts', to='channels.listinglevel')),
                ('expected', models.IntegerField()),
                ('actual', models.IntegerField()),
                ('action', models.CharField(choices=[('explained', 'Explained by orders or pushes'), ('adopted', 'Taken over into the pool'), ('overridden', "Overwritten with the pool's number")], max_length=20)),
                ('explanation', models.CharField(blank=True, max_length=500)),
                ('is_ambiguous', models.BooleanField(db_default=False, default=False)),
                ('previous_confirmed_at', models.DateTimeField(blank=True, null=True, verbose_name='last good sync')),
                ('correlation_id', models.UUIDField()),
                ('found_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'indexes': [models.Index(fields=['merchant', '-id'], name='drift_by_merchant'), models.Index(fields=['listing_level', '-id'], name='drift_by_level')],
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='drift_channel_of_merchant'), merchants.tenancy.SameMerchant(field='listing_level', name='drift_listing_level_of_merchant'), models.CheckConstraint(condition=models.Q(('action__in', ['explained', 'adopted', 'overridden'])), name='drift_action_known')],
            },
        ),
        migrations.CreateModel(
            name='ReconcileRun',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='reconcile_runs', to='channels.channel')),
                ('state', models.CharField(choices=[('running', 'Running'), ('done', 'Done'), ('failed', 'Failed')], db_default='running', default='running', max_length=10)),
                ('started_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
                ('orders_read', models.PositiveIntegerField(db_default=0, default=0)),
                ('orders_recovered', models.PositiveIntegerField(db_default=0, default=0, verbose_name='orders no webhook had told of')),
                ('levels_read', models.PositiveIntegerField(db_default=0, default=0)),
                ('levels_suspect', models.PositiveIntegerField(db_default=0, default=0, verbose_name='levels found to differ')),
                ('error', models.CharField(blank=True, db_default='', max_length=500)),
            ],
            options={
                'indexes': [models.Index(fields=['channel', '-id'], name='reconcile_run_by_channel')],
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='reconcile_run_channel_of_merchant'), models.CheckConstraint(condition=models.Q(('state__in', ['running', 'done', 'failed'])), name='reconcile_run_state_known')],
            },
        ),
        migrations.CreateModel(
            name='Heartbeat',
            fields=[
                ('name', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('beat_at', models.DateTimeField()),
            ],
        ),
    ]

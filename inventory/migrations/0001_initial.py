import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
import merchants.tenancy
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('merchants', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Sku',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='skus', to='merchants.merchant')),
                ('code', models.CharField(max_length=100, verbose_name='SKU')),
                ('title', models.CharField(blank=True, max_length=255)),
                ('barcode', models.CharField(blank=True, max_length=64)),
                ('kind', models.CharField(choices=[('stocked', 'Stocked'), ('bundle', 'Bundle')], db_default='stocked', default='stocked', max_length=10)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'verbose_name': 'SKU',
                'verbose_name_plural': 'SKUs',
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='sku_tenant_identity'), models.UniqueConstraint(fields=('merchant', 'code'), name='sku_code_once_per_merchant'), models.CheckConstraint(condition=models.Q(('code', ''), _negated=True), name='sku_code_not_empty'), models.CheckConstraint(condition=models.Q(('kind__in', ['stocked', 'bundle'])), name='sku_kind_known')],
            },
        ),
        migrations.CreateModel(
            name='BomLine',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('bundle', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='bom_lines', to='inventory.sku')),
                ('component', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='used_in', to='inventory.sku')),
                ('quantity', models.PositiveIntegerField(default=1)),
            ],
            options={
                'verbose_name': 'BOM line',
                'constraints': [merchants.tenancy.SameMerchant(field='bundle', name='bom_line_bundle_of_merchant'), merchants.tenancy.SameMerchant(field='component', name='bom_line_component_of_merchant'), models.UniqueConstraint(fields=('bundle', 'component'), name='bom_line_component_once'), models.CheckConstraint(condition=models.Q(('bundle', models.F('component')), _negated=True), name='bom_line_not_itself'), models.CheckConstraint(condition=models.Q(('quantity__gt', 0)), name='bom_line_quantity_positive')],
            },
        ),
        migrations.CreateModel(
            name='Warehouse',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='warehouses', to='merchants.merchant')),
                ('code', models.CharField(max_length=40)),
                ('name', models.CharField(max_length=120)),
                ('is_active', models.BooleanField(db_default=True, default=True)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='warehouse_tenant_identity'), models.UniqueConstraint(fields=('merchant', 'code'), name='warehouse_code_once_per_merchant')],
            },
        ),
        migrations.CreateModel(
            name='StockLevel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('sku', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='stock_levels', to='inventory.sku')),
                ('warehouse', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='stock_levels', to='inventory.warehouse')),
                ('on_hand', models.IntegerField(db_default=0, default=0)),
                ('committed', models.IntegerField(db_default=0, default=0, verbose_name='committed (sold, not shipped)')),
                ('held', models.IntegerField(db_default=0, default=0)),
                ('available', models.GeneratedField(db_persist=True, expression=django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('on_hand'), '-', models.F('committed')), '-', models.F('held')), output_field=models.IntegerField())),
                ('seq', models.BigIntegerField(db_default=0, default=0, verbose_name='latest ledger sequence')),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='stock_level_tenant_identity'), merchants.tenancy.SameMerchant(field='sku', name='stock_level_sku_of_merchant'), merchants.tenancy.SameMerchant(field='warehouse', name='stock_level_warehouse_of_merchant'), models.UniqueConstraint(fields=('sku', 'warehouse'), name='stock_level_once'), models.CheckConstraint(condition=models.Q(('committed__gte', 0)), name='stock_level_committed_not_negative'), models.CheckConstraint(condition=models.Q(('held__gte', 0)), name='stock_level_held_not_negative'), models.CheckConstraint(condition=models.Q(('seq__gte', 0)), name='stock_level_seq_not_negative')],
            },
        ),
        migrations.CreateModel(
            name='Movement',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.merchant')),
                ('stock_level', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='movements', to='inventory.stocklevel')),
                ('seq', models.BigIntegerField()),
                ('account', models.CharField(choices=[('on_hand', 'On Hand'), ('committed', 'Committed'), ('held', 'Held')], max_length=10)),
                ('delta', models.IntegerField()),
                ('balance_after', models.IntegerField()),
                ('cause', models.CharField(choices=[('opening', 'Opening stock'), ('sale', 'Sale'), ('cancel', 'Cancelled or removed'), ('shipment', 'Shipped'), ('return', 'Returned'), ('write_off', 'Not restocked'), ('adjustment', 'Manual adjustment'), ('channel_edit', 'Changed in the store'), ('check', 'Held while a store is checked'), ('reservation', 'Reserved through the API')], max_length=20)),
                ('idempotency_key', models.CharField(max_length=120)),
                ('reference', models.CharField(blank=True, help_text="What it was for, such as an order's name.", max_length=200)),
                ('reason', models.CharField(blank=True, db_default='', max_length=500)),
                ('user', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('correlation_id', models.UUIDField()),
                ('effective_at', models.DateTimeField(help_text='When it happened, by the clock of whoever reported it.')),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'indexes': [models.Index(fields=['correlation_id'], name='movement_by_correlation'), models.Index(fields=['merchant', '-id'], name='movement_by_merchant')],
                'constraints': [merchants.tenancy.SameMerchant(field='stock_level', name='movement_stock_level_of_merchant'), models.UniqueConstraint(fields=('stock_level', 'seq'), name='movement_seq_once'), models.UniqueConstraint(fields=('merchant', 'idempotency_key'), name='movement_applied_once'), models.CheckConstraint(condition=models.Q(('seq__gt', 0)), name='movement_seq_positive'), models.CheckConstraint(condition=models.Q(('delta', 0), _negated=True), name='movement_moves_something'), models.CheckConstraint(condition=models.Q(('account__in', ['on_hand', 'committed', 'held'])), name='movement_account_known'), models.CheckConstraint(condition=models.Q(('cause__in', ['opening', 'sale', 'cancel', 'shipment', 'return', 'write_off', 'adjustment', 'channel_edit', 'check', 'reservation'])), name='movement_cause_known')],
            },
        ),
        migrations.CreateModel(
            name='Hold',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('stock_level', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='holds', to='inventory.stocklevel')),
                ('quantity', models.PositiveIntegerField()),
                ('state', models.CharField(choices=[('active', 'Active'), ('committed', 'Committed'), ('released', 'Released')], db_default='active', default='active', max_length=10)),
                ('idempotency_key', models.CharField(max_length=120)),
                ('reference', models.CharField(blank=True, max_length=200)),
                ('correlation_id', models.UUIDField()),
                ('expires_at', models.DateTimeField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('state', 'active')), fields=['stock_level', 'expires_at'], name='hold_active')],
                'constraints': [merchants.tenancy.SameMerchant(field='stock_level', name='hold_stock_level_of_merchant'), models.UniqueConstraint(fields=('merchant', 'idempotency_key'), name='hold_made_once'), models.CheckConstraint(condition=models.Q(('quantity__gt', 0)), name='hold_quantity_positive'), models.CheckConstraint(condition=models.Q(('state__in', ['active', 'committed', 'released'])), name='hold_state_known')],
            },
        ),
        migrations.CreateModel(
            name='Shortage',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.merchant')),
                ('stock_level', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='shortages', to='inventory.stocklevel')),
                ('quantity', models.PositiveIntegerField(verbose_name='units short')),
                ('quantity_covered', models.PositiveIntegerField(db_default=0, default=0, verbose_name='units covered since')),
                ('cause', models.CharField(choices=[('opening', 'Opening stock'), ('sale', 'Sale'), ('cancel', 'Cancelled or removed'), ('shipment', 'Shipped'), ('return', 'Returned'), ('write_off', 'Not restocked'), ('adjustment', 'Manual adjustment'), ('channel_edit', 'Changed in the store'), ('check', 'Held while a store is checked'), ('reservation', 'Reserved through the API')], max_length=20)),
                ('reference', models.CharField(blank=True, max_length=200)),
                ('correlation_id', models.UUIDField()),
                ('occurred_at', models.DateTimeField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('covered_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('covered_at__isnull', True)), fields=['stock_level', 'id'], name='shortage_open'), models.Index(fields=['merchant', '-id'], name='shortage_by_merchant')],
                'constraints': [merchants.tenancy.SameMerchant(field='stock_level', name='shortage_stock_level_of_merchant'), models.CheckConstraint(condition=models.Q(('quantity__gt', 0)), name='shortage_quantity_positive'), models.CheckConstraint(condition=models.Q(('quantity_covered__lte', models.F('quantity'))), name='shortage_not_covered_beyond_itself'), models.CheckConstraint(condition=models.Q(models.Q(('covered_at__isnull', True), ('quantity_covered__lt', models.F('quantity'))), models.Q(('covered_at__isnull', False), ('quantity_covered', models.F('quantity'))), _connector='OR'), name='shortage_covered_exactly_when_dated')],
            },
        ),
    ]

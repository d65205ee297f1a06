import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
import inventory.models
import merchants.tenancy
import synctec.lib.ids
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('inventory', '0002_append_only'),
        ('merchants', '0003_api_keys'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='StockCount',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('quantity', models.IntegerField(verbose_name='units counted')),
                ('counted_at', models.DateTimeField(verbose_name='as of')),
                ('said_at', models.DateTimeField(blank=True, help_text='Never later than ours is what counts.', null=True, verbose_name="as of, by the reporter's clock")),
                ('state', models.CharField(choices=[('applied', 'Applied'), ('superseded', 'Superseded by a newer count')], max_length=10)),
                ('correction', models.IntegerField(help_text='What on_hand was moved by; 0 when the books agreed.', verbose_name='booked difference')),
                ('idempotency_key', models.CharField(max_length=80)),
                ('reason', models.CharField(blank=True, max_length=500)),
                ('source', models.CharField(blank=True, help_text='How the API key begins that told of it.', max_length=20)),
                ('correlation_id', models.UUIDField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'verbose_name': 'count',
            },
        ),
        migrations.CreateModel(
            name='Transfer',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('uid', models.UUIDField(default=synctec.lib.ids.uuid7, editable=False, verbose_name='transfer')),
                ('state', models.CharField(choices=[('in_transit', 'In Transit'), ('received', 'Received'), ('cancelled', 'Cancelled')], db_default='in_transit', default='in_transit', max_length=10)),
                ('reference', models.CharField(blank=True, max_length=200)),
                ('source', models.CharField(blank=True, help_text='How the API key begins that made it.', max_length=20)),
                ('correlation_id', models.UUIDField()),
                ('sent_at', models.DateTimeField()),
                ('closed_at', models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name='TransferLine',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('quantity', models.PositiveIntegerField(verbose_name='sent')),
                ('received', models.PositiveIntegerField(db_default=0, default=0)),
                ('returned', models.PositiveIntegerField(db_default=0, default=0, verbose_name='taken back')),
            ],
        ),
        migrations.CreateModel(
            name='WebhookDelivery',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('message_id', models.CharField(max_length=60, unique=True)),
                ('state', models.CharField(choices=[('open', 'On its way'), ('delivered', 'Delivered'), ('replaced', 'Replaced by a newer one')], default='open', max_length=10)),
                ('changes', models.PositiveIntegerField(verbose_name='levels told of')),
                ('body', models.TextField()),
                ('to_transaction', models.BigIntegerField()),
                ('to_movement', models.BigIntegerField()),
                ('attempts', models.PositiveIntegerField(default=0)),
                ('answer', models.CharField(blank=True, max_length=300, verbose_name='latest answer')),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'verbose_name_plural': 'webhook deliveries',
            },
        ),
        migrations.CreateModel(
            name='WebhookEndpoint',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('url', models.URLField(max_length=500, verbose_name='address')),
                ('description', models.CharField(blank=True, max_length=120)),
                ('state', models.CharField(choices=[('active', 'Active'), ('off', 'Switched off'), ('failed', 'Switched off: it did not answer')], db_default='active', default='active', max_length=10)),
                ('state_reason', models.CharField(blank=True, max_length=300)),
                ('sealed_secret', models.TextField(blank=True, editable=False)),
                ('sealed_previous_secret', models.TextField(blank=True, editable=False)),
                ('previous_until', models.DateTimeField(blank=True, editable=False, null=True)),
                ('cursor_transaction', models.BigIntegerField(default=0, editable=False)),
                ('cursor_movement', models.BigIntegerField(default=0, editable=False)),
                ('failures', models.PositiveIntegerField(db_default=0, default=0, editable=False, verbose_name='failures in a row')),
                ('failing_since', models.DateTimeField(blank=True, editable=False, null=True)),
                ('next_attempt_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('lease', models.UUIDField(editable=False, null=True)),
                ('last_delivered_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='movement',
            name='movement_cause_known',
        ),
        migrations.AddField(
            model_name='movement',
            name='source',
            field=models.CharField(blank=True, db_default='', help_text='How the API key begins that told of it.', max_length=20),
        ),
        # In two steps: a constant is added without writing the table anew. What was there comes first in the feed.
        migrations.AddField(
            model_name='movement',
            name='transaction_id',
            field=models.BigIntegerField(db_default=0, editable=False),
        ),
        migrations.AlterField(
            model_name='movement',
            name='transaction_id',
            field=models.BigIntegerField(db_default=inventory.models.CurrentTransaction(), editable=False),
        ),
        migrations.AddField(
            model_name='stocklevel',
            name='counted_at',
            field=models.DateTimeField(blank=True, editable=False, null=True, verbose_name='as of its newest count'),
        ),
        migrations.AlterField(
            model_name='movement',
            name='cause',
            field=models.CharField(choices=[('opening', 'Opening stock'), ('sale', 'Sale'), ('cancel', 'Cancelled or removed'), ('shipment', 'Shipped'), ('return', 'Returned'), ('write_off', 'Not restocked'), ('adjustment', 'Manual adjustment'), ('channel_edit', 'Changed in the store'), ('check', 'Held while a store is checked'), ('reservation', 'Reserved through the API'), ('receipt', 'Purchase order received'), ('damage', 'Damaged or lost'), ('transfer_out', 'Sent to another warehouse'), ('transfer_in', 'Received from another warehouse'), ('transfer_back', 'Back from a cancelled transfer'), ('count', 'Counted')], max_length=20),
        ),
        migrations.AlterField(
            model_name='shortage',
            name='cause',
            field=models.CharField(choices=[('opening', 'Opening stock'), ('sale', 'Sale'), ('cancel', 'Cancelled or removed'), ('shipment', 'Shipped'), ('return', 'Returned'), ('write_off', 'Not restocked'), ('adjustment', 'Manual adjustment'), ('channel_edit', 'Changed in the store'), ('check', 'Held while a store is checked'), ('reservation', 'Reserved through the API'), ('receipt', 'Purchase order received'), ('damage', 'Damaged or lost'), ('transfer_out', 'Sent to another warehouse'), ('transfer_in', 'Received from another warehouse'), ('transfer_back', 'Back from a cancelled transfer'), ('count', 'Counted')], max_length=20),
        ),
        migrations.AddIndex(
            model_name='movement',
            index=models.Index(fields=['merchant', 'transaction_id', 'id'], name='movement_feed'),
        ),
        migrations.AddIndex(
            model_name='movement',
            index=models.Index(condition=models.Q(('account', 'on_hand')), fields=['stock_level', 'effective_at'], name='movement_on_hand_by_time'),
        ),
        migrations.AddConstraint(
            model_name='movement',
            constraint=models.CheckConstraint(condition=models.Q(('cause__in', ['opening', 'sale', 'cancel', 'shipment', 'return', 'write_off', 'adjustment', 'channel_edit', 'check', 'reservation', 'receipt', 'damage', 'transfer_out', 'transfer_in', 'transfer_back', 'count'])), name='movement_cause_known'),
        ),
        migrations.AddField(
            model_name='stockcount',
            name='merchant',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.merchant'),
        ),
        migrations.AddField(
            model_name='stockcount',
            name='stock_level',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='counts', to='inventory.stocklevel'),
        ),
        migrations.AddField(
            model_name='stockcount',
            name='user',
            field=models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='transfer',
            name='destination',
            field=models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='inventory.warehouse', verbose_name='to'),
        ),
        migrations.AddField(
            model_name='transfer',
            name='merchant',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.merchant'),
        ),
        migrations.AddField(
            model_name='transfer',
            name='origin',
            field=models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='inventory.warehouse', verbose_name='from'),
        ),
        migrations.AddField(
            model_name='transfer',
            name='user',
            field=models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddField(
            model_name='transferline',
            name='merchant',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.merchant'),
        ),
        migrations.AddField(
            model_name='transferline',
            name='sku',
            field=models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='inventory.sku'),
        ),
        migrations.AddField(
            model_name='transferline',
            name='transfer',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='lines', to='inventory.transfer'),
        ),
        migrations.AddField(
            model_name='webhookdelivery',
            name='merchant',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant'),
        ),
        migrations.AddField(
            model_name='webhookendpoint',
            name='merchant',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant'),
        ),
        migrations.AddField(
            model_name='webhookendpoint',
            name='skipped_key',
            field=models.ForeignKey(blank=True, db_constraint=False, db_index=False, help_text='Its own key, so that an integration does not hear its echo.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.apikey', verbose_name='but not of changes made with'),
        ),
        migrations.AddField(
            model_name='webhookdelivery',
            name='endpoint',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to='inventory.webhookendpoint'),
        ),
        migrations.AddIndex(
            model_name='stockcount',
            index=models.Index(fields=['stock_level', '-counted_at'], name='stock_count_base'),
        ),
        migrations.AddIndex(
            model_name='stockcount',
            index=models.Index(fields=['merchant', '-id'], name='stock_count_by_merchant'),
        ),
        migrations.AddConstraint(
            model_name='stockcount',
            constraint=merchants.tenancy.SameMerchant(field='stock_level', name='stock_count_stock_level_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='stockcount',
            constraint=models.UniqueConstraint(fields=('merchant', 'idempotency_key'), name='stock_count_taken_once'),
        ),
        migrations.AddConstraint(
            model_name='stockcount',
            constraint=models.CheckConstraint(condition=models.Q(('quantity__gte', 0)), name='stock_count_quantity_not_negative'),
        ),
        migrations.AddConstraint(
            model_name='stockcount',
            constraint=models.CheckConstraint(condition=models.Q(('state', 'applied'), ('correction', 0), _connector='OR'), name='stock_count_superseded_moves_nothing'),
        ),
        migrations.AddConstraint(
            model_name='stockcount',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['applied', 'superseded'])), name='stock_count_state_known'),
        ),
        migrations.AddIndex(
            model_name='transfer',
            index=models.Index(fields=['merchant', '-id'], name='transfer_by_merchant'),
        ),
        migrations.AddIndex(
            model_name='transfer',
            index=models.Index(condition=models.Q(('state', 'in_transit')), fields=['merchant', '-id'], name='transfer_open'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.UniqueConstraint(fields=('merchant', 'id'), name='transfer_tenant_identity'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.UniqueConstraint(fields=('merchant', 'uid'), name='transfer_sent_once'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=merchants.tenancy.SameMerchant(field='origin', name='transfer_origin_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=merchants.tenancy.SameMerchant(field='destination', name='transfer_destination_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.CheckConstraint(condition=models.Q(('origin', models.F('destination')), _negated=True), name='transfer_goes_elsewhere'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('closed_at__isnull', True), ('state', 'in_transit')), models.Q(models.Q(('state', 'in_transit'), _negated=True), ('closed_at__isnull', False)), _connector='OR'), name='transfer_closed_exactly_when_dated'),
        ),
        migrations.AddConstraint(
            model_name='transfer',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['in_transit', 'received', 'cancelled'])), name='transfer_state_known'),
        ),
        migrations.AddConstraint(
            model_name='transferline',
            constraint=merchants.tenancy.SameMerchant(field='transfer', name='transfer_line_transfer_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='transferline',
            constraint=merchants.tenancy.SameMerchant(field='sku', name='transfer_line_sku_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='transferline',
            constraint=models.UniqueConstraint(fields=('transfer', 'sku'), name='transfer_line_sku_once'),
        ),
        migrations.AddConstraint(
            model_name='transferline',
            constraint=models.CheckConstraint(condition=models.Q(('quantity__gt', 0)), name='transfer_line_quantity_positive'),
        ),
        migrations.AddConstraint(
            model_name='transferline',
            constraint=models.CheckConstraint(condition=models.Q(('quantity__gte', django.db.models.expressions.CombinedExpression(models.F('received'), '+', models.F('returned')))), name='transfer_line_ends_once'),
        ),
        migrations.AddIndex(
            model_name='webhookendpoint',
            index=models.Index(condition=models.Q(('state', 'active')), fields=['next_attempt_at'], name='webhook_endpoint_due'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.UniqueConstraint(fields=('merchant', 'id'), name='webhook_endpoint_tenant_identity'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=merchants.tenancy.SameMerchant(field='skipped_key', name='webhook_endpoint_skipped_key_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.UniqueConstraint(fields=('merchant', 'url'), name='webhook_endpoint_url_once'),
        ),
        migrations.AddConstraint(
            model_name='webhookendpoint',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['active', 'off', 'failed'])), name='webhook_endpoint_state_known'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(fields=['endpoint', '-id'], name='webhook_delivery_by_endpoint'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(fields=['merchant', '-id'], name='webhook_delivery_by_merchant'),
        ),
        migrations.AddIndex(
            model_name='webhookdelivery',
            index=models.Index(condition=models.Q(('state', 'open'), _negated=True), fields=['created_at'], name='webhook_delivery_by_age'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=merchants.tenancy.SameMerchant(field='endpoint', name='webhook_delivery_endpoint_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.UniqueConstraint(condition=models.Q(('state', 'open')), fields=('endpoint',), name='webhook_delivery_one_open'),
        ),
        migrations.AddConstraint(
            model_name='webhookdelivery',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['open', 'delivered', 'replaced'])), name='webhook_delivery_state_known'),
        ),
    ]

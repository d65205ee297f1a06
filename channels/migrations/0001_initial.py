import channels.models
import django.contrib.postgres.fields
import django.contrib.postgres.indexes
import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.comparison
import django.db.models.functions.datetime
import merchants.tenancy
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('inventory', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='Channel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='channels', to='merchants.merchant')),
                ('kind', models.CharField(choices=[('shopify', 'Shopify'), ('sandbox', 'Sandbox (a practice Shopify store)')], max_length=20)),
                ('name', models.CharField(max_length=80)),
                ('account', models.CharField(help_text="The account's own identifier: for Shopify the domain, such as north.myshopify.com.", max_length=255)),
                ('state', models.CharField(choices=[('connecting', 'Connecting'), ('active', 'Active'), ('paused', 'Paused: nothing is written'), ('needs_auth', 'Needs to be authorized again'), ('uninstalled', 'Uninstalled in the store')], db_default='connecting', default='connecting', max_length=20)),
                ('state_reason', models.CharField(blank=True, db_default='', max_length=500)),
                ('webhook_token', models.CharField(default=channels.models.new_webhook_token, editable=False, max_length=40, unique=True)),
                ('orders_counted_from', models.DateTimeField(blank=True, help_text='Orders placed earlier are already in the opening stock.', null=True)),
                ('orders_watermark', models.DateTimeField(blank=True, editable=False, help_text="Orders changed up to this moment, by the store's clock, are in the inbox.", null=True)),
                ('orders_read_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('next_call_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('failures', models.PositiveIntegerField(db_default=0, default=0, editable=False)),
                ('last_error', models.CharField(blank=True, db_default='', editable=False, max_length=500)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='channel_tenant_identity'), models.UniqueConstraint(fields=('kind', 'account'), name='channel_account_connected_once'), models.UniqueConstraint(fields=('merchant', 'name'), name='channel_name_once_per_merchant'), models.CheckConstraint(condition=models.Q(('kind__in', ['shopify', 'sandbox'])), name='channel_kind_known'), models.CheckConstraint(condition=models.Q(('state__in', ['connecting', 'active', 'paused', 'needs_auth', 'uninstalled'])), name='channel_state_known')],
            },
        ),
        migrations.CreateModel(
            name='Credential',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='credential', to='channels.channel')),
                ('client_id', models.CharField(blank=True, max_length=120)),
                ('sealed_client_secret', models.TextField(blank=True, db_default='')),
                ('sealed_previous_client_secret', models.TextField(blank=True, db_default='')),
                ('sealed_access_token', models.TextField(blank=True, db_default='')),
                ('sealed_refresh_token', models.TextField(blank=True, db_default='')),
                ('access_token_expires_at', models.DateTimeField(blank=True, null=True)),
                ('scopes', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=60), blank=True, default=list, size=None)),
                ('updated_at', models.DateTimeField(auto_now=True)),
            ],
            options={
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='credential_channel_of_merchant')],
            },
        ),
        migrations.CreateModel(
            name='StoreLocation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='locations', to='channels.channel')),
                ('remote_id', models.CharField(max_length=120)),
                ('name', models.CharField(max_length=255)),
                ('is_active', models.BooleanField(db_default=True, default=True)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='store_location_tenant_identity'), merchants.tenancy.SameMerchant(field='channel', name='store_location_channel_of_merchant'), models.UniqueConstraint(fields=('channel', 'remote_id'), name='store_location_once')],
            },
        ),
        migrations.CreateModel(
            name='Listing',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='listings', to='channels.channel')),
                ('sku', models.ForeignKey(blank=True, db_constraint=False, help_text='Empty: not mapped yet; its sales wait.', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='listings', to='inventory.sku')),
                ('remote_variant_id', models.CharField(max_length=120)),
                ('remote_product_id', models.CharField(blank=True, max_length=120)),
                ('inventory_item_id', models.CharField(blank=True, max_length=120)),
                ('remote_sku', models.CharField(blank=True, max_length=255, verbose_name='SKU in the store')),
                ('title', models.CharField(blank=True, max_length=255)),
                ('barcode', models.CharField(blank=True, max_length=64)),
                ('is_tracked', models.BooleanField(db_default=True, default=True, help_text='The store counts its stock.')),
                ('is_store_bundle', models.BooleanField(db_default=False, default=False, help_text='The store computes its stock from components and refuses writes.')),
                ('sells_when_out_of_stock', models.BooleanField(db_default=False, default=False)),
                ('deleted_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'indexes': [models.Index(fields=['channel', 'inventory_item_id'], name='listing_by_inventory_item'), models.Index(condition=models.Q(('sku__isnull', False)), fields=['sku'], name='listing_by_sku')],
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='listing_tenant_identity'), merchants.tenancy.SameMerchant(field='channel', name='listing_channel_of_merchant'), merchants.tenancy.SameMerchant(field='sku', name='listing_sku_of_merchant'), models.UniqueConstraint(fields=('channel', 'remote_variant_id'), name='listing_variant_once')],
            },
        ),
        migrations.CreateModel(
            name='ListingLevel',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.channel')),
                ('listing', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='levels', to='channels.listing')),
                ('store_location', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='levels', to='channels.storelocation')),
                ('is_stocked', models.BooleanField(db_default=True, default=True, help_text='The store stocks it at this location.')),
                ('base', models.IntegerField(db_default=0, default=0)),
                ('order_effects', models.IntegerField(db_default=0, default=0, verbose_name='effect of known orders')),
                ('pushed', models.IntegerField(db_default=0, default=0, verbose_name='sum of confirmed pushes')),
                ('reported', models.GeneratedField(db_persist=True, expression=django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('base'), '+', models.F('order_effects')), '+', models.F('pushed')), output_field=models.IntegerField())),
                ('sample', models.IntegerField(blank=True, null=True, verbose_name='reading that is not explained yet')),
                ('shown', models.GeneratedField(db_persist=True, expression=django.db.models.functions.comparison.Coalesce(models.F('sample'), django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('base'), '+', models.F('order_effects')), '+', models.F('pushed'))), output_field=models.IntegerField())),
                ('desired', models.IntegerField(blank=True, help_text='Empty: not published (unmapped).', null=True)),
                ('version', models.BigIntegerField(db_default=0, default=0)),
                ('source_at', models.DateTimeField(blank=True, null=True)),
                ('confirmed_at', models.DateTimeField(blank=True, help_text='When the store last confirmed the number.', null=True)),
                ('suspect_since', models.DateTimeField(blank=True, null=True)),
                ('suspect_reason', models.CharField(blank=True, db_default='', max_length=60)),
                ('suspect_available', models.IntegerField(blank=True, null=True)),
                ('sampled_at', models.DateTimeField(blank=True, null=True)),
                ('sample_version', models.BigIntegerField(blank=True, null=True)),
                ('next_check_at', models.DateTimeField(blank=True, null=True)),
                ('held', models.PositiveIntegerField(db_default=0, default=0)),
                ('held_at', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='inventory.stocklevel')),
                ('next_push_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('push_failures', models.PositiveIntegerField(db_default=0, default=0)),
                ('last_error', models.CharField(blank=True, db_default='', max_length=500)),
                ('waiting_correlation_ids', django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), blank=True, db_default=[], default=list, size=None)),
                ('waiting_since', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('desired__isnull', False), models.Q(('desired', models.F('shown')), _negated=True)), fields=['channel', 'next_push_at'], name='listing_level_out_of_sync'), models.Index(condition=models.Q(('suspect_since__isnull', False)), fields=['channel', 'next_check_at'], name='listing_level_suspect'), models.Index(fields=['channel', 'id'], name='listing_level_by_channel')],
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='listing_level_tenant_identity'), merchants.tenancy.SameMerchant(field='channel', name='listing_level_channel_of_merchant'), merchants.tenancy.SameMerchant(field='listing', name='listing_level_listing_of_merchant'), merchants.tenancy.SameMerchant(field='store_location', name='listing_level_location_of_merchant'), merchants.tenancy.SameMerchant(field='held_at', name='listing_level_held_at_of_merchant'), models.UniqueConstraint(fields=('listing', 'store_location'), name='listing_level_once'), models.CheckConstraint(condition=models.Q(('sample__isnull', True), ('suspect_since__isnull', False), _connector='OR'), name='listing_level_sample_only_while_suspect'), models.CheckConstraint(condition=models.Q(('held', 0), ('held_at__isnull', False), _connector='OR'), name='listing_level_held_somewhere'), models.CheckConstraint(condition=models.Q(('desired__isnull', True), ('desired__gte', 0), _connector='OR'), name='listing_level_desired_not_negative')],
            },
        ),
        migrations.CreateModel(
            name='InboxEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='events', to='channels.channel')),
                ('topic', models.CharField(max_length=80)),
                ('webhook_id', models.CharField(help_text='Identity of the delivery; repeated over its retries.', max_length=160)),
                ('event_id', models.CharField(blank=True, db_default='', max_length=160)),
                ('api_version', models.CharField(blank=True, db_default='', max_length=20)),
                ('triggered_at', models.DateTimeField(blank=True, null=True)),
                ('body', models.BinaryField()),
                ('body_sha256', models.BinaryField(max_length=32)),
                ('hlc', models.BigIntegerField(help_text='Hybrid logical clock at receipt.')),
                ('received_at', models.DateTimeField()),
                ('duplicates', models.PositiveIntegerField(db_default=0, default=0)),
                ('correlation_id', models.UUIDField()),
                ('state', models.CharField(choices=[('pending', 'Pending'), ('applied', 'Applied'), ('ignored', 'Ignored'), ('dead', 'Dead')], db_default='pending', default='pending', max_length=10)),
                ('reason', models.CharField(blank=True, db_default='', max_length=500)),
                ('attempts', models.PositiveSmallIntegerField(db_default=0, default=0)),
                ('next_attempt_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('state', 'pending')), fields=['merchant', 'next_attempt_at'], name='inbox_event_due'), models.Index(fields=['merchant', '-id'], name='inbox_event_by_merchant'), models.Index(condition=models.Q(('state__in', ['ignored', 'dead'])), fields=['channel', 'state', 'id'], name='inbox_event_set_aside'), models.Index(fields=['correlation_id'], name='inbox_event_by_correlation')],
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='inbox_event_channel_of_merchant'), models.UniqueConstraint(fields=('channel', 'topic', 'webhook_id'), name='inbox_event_delivered_once'), models.CheckConstraint(condition=models.Q(models.Q(('state__in', ['ignored', 'dead']), _negated=True), models.Q(('reason', ''), _negated=True), _connector='OR'), name='inbox_event_says_why'), models.CheckConstraint(condition=models.Q(models.Q(('settled_at__isnull', True), ('state', 'pending')), models.Q(models.Q(('state', 'pending'), _negated=True), ('settled_at__isnull', False)), _connector='OR'), name='inbox_event_settled_exactly_when_dated'), models.CheckConstraint(condition=models.Q(('state__in', ['pending', 'applied', 'ignored', 'dead'])), name='inbox_event_state_known')],
            },
        ),
        migrations.CreateModel(
            name='PushBatch',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='push_batches', to='channels.channel')),
                ('state', models.CharField(choices=[('intent', 'About to be sent'), ('unknown', 'No answer: sent again with the same key'), ('done', 'Answered'), ('unresolved', 'Being resolved by reading the store')], db_default='intent', default='intent', max_length=10)),
                ('lease_token', models.BigIntegerField()),
                ('attempts', models.PositiveSmallIntegerField(db_default=0, default=0)),
                ('next_attempt_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('sent_at', models.DateTimeField(blank=True, null=True)),
                ('answered_at', models.DateTimeField(blank=True, null=True)),
                ('error', models.CharField(blank=True, db_default='', max_length=500)),
            ],
            options={
                'verbose_name_plural': 'push batches',
                'indexes': [models.Index(condition=models.Q(('state__in', ['intent', 'unknown'])), fields=['channel', 'next_attempt_at'], name='push_batch_unanswered')],
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='push_batch_tenant_identity'), merchants.tenancy.SameMerchant(field='channel', name='push_batch_channel_of_merchant'), models.CheckConstraint(condition=models.Q(('state__in', ['intent', 'unknown', 'done', 'unresolved'])), name='push_batch_state_known')],
            },
        ),
        migrations.CreateModel(
            name='Push',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.channel')),
                ('batch', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='pushes', to='channels.pushbatch')),
                ('position', models.PositiveSmallIntegerField()),
                ('listing_level', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='pushes', to='channels.listinglevel')),
                ('from_quantity', models.IntegerField()),
                ('to_quantity', models.IntegerField()),
                ('state', models.CharField(choices=[('open', 'On its way, or its outcome is not known'), ('confirmed', 'Confirmed'), ('rejected', 'Not applied')], db_default='open', default='open', max_length=10)),
                ('error_code', models.CharField(blank=True, db_default='', max_length=80)),
                ('error', models.CharField(blank=True, db_default='', max_length=500)),
                ('correlation_ids', django.contrib.postgres.fields.ArrayField(base_field=models.UUIDField(), db_default=[], default=list, size=None)),
                ('caused_at', models.DateTimeField(blank=True, help_text='When the oldest event behind it arrived.', null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
            ],
            options={
                'verbose_name_plural': 'pushes',
                'indexes': [django.contrib.postgres.indexes.GinIndex(fastupdate=True, fields=['correlation_ids'], name='push_by_correlation'), models.Index(fields=['listing_level', '-id'], name='push_by_level'), models.Index(fields=['merchant', '-id'], name='push_by_merchant')],
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='push_channel_of_merchant'), merchants.tenancy.SameMerchant(field='batch', name='push_batch_of_merchant'), merchants.tenancy.SameMerchant(field='listing_level', name='push_listing_level_of_merchant'), models.UniqueConstraint(fields=('batch', 'position'), name='push_position_once'), models.UniqueConstraint(condition=models.Q(('state', 'open')), fields=('listing_level',), name='push_one_open_per_level'), models.CheckConstraint(condition=models.Q(models.Q(('settled_at__isnull', True), ('state', 'open')), models.Q(models.Q(('state', 'open'), _negated=True), ('settled_at__isnull', False)), _connector='OR'), name='push_settled_exactly_when_dated'), models.CheckConstraint(condition=models.Q(('state__in', ['open', 'confirmed', 'rejected'])), name='push_state_known')],
            },
        ),
    ]

import django.core.validators
import django.db.models.constraints
import django.db.models.deletion
import merchants.tenancy
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('channels', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='LocationGroup',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='location_groups', to='merchants.merchant')),
                ('name', models.CharField(max_length=80)),
                ('policy', models.CharField(choices=[('shared', 'Shared: every store shows the whole pool')], db_default='shared', default='shared', max_length=10)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='location_group_tenant_identity'), models.UniqueConstraint(fields=('merchant', 'name'), name='location_group_name_once'), models.CheckConstraint(condition=models.Q(('policy__in', ['shared'])), name='location_group_policy_known')],
            },
        ),
        migrations.CreateModel(
            name='GroupLocation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('group', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='locations', to='locations.locationgroup')),
                ('store_location', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='membership', to='channels.storelocation')),
            ],
            options={
                'verbose_name': 'store location of the group',
                'verbose_name_plural': 'store locations of the group',
                'constraints': [merchants.tenancy.SameMerchant(field='group', name='group_location_group_of_merchant'), merchants.tenancy.SameMerchant(field='store_location', name='group_location_location_of_merchant'), models.UniqueConstraint(fields=('group', 'store_location'), name='group_location_identity')],
            },
        ),
        migrations.CreateModel(
            name='GroupWarehouse',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('group', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='warehouses', to='locations.locationgroup')),
                ('warehouse', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='membership', to='inventory.warehouse')),
            ],
            options={
                'verbose_name': 'warehouse of the group',
                'verbose_name_plural': 'warehouses of the group',
                'constraints': [merchants.tenancy.SameMerchant(field='group', name='group_warehouse_group_of_merchant'), merchants.tenancy.SameMerchant(field='warehouse', name='group_warehouse_warehouse_of_merchant'), models.UniqueConstraint(fields=('group', 'warehouse'), name='group_warehouse_identity')],
            },
        ),
        migrations.CreateModel(
            name='Mapping',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('group', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='mappings', to='locations.locationgroup')),
                ('store_location', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='mappings', to='channels.storelocation')),
                ('warehouse', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='mappings', to='inventory.warehouse')),
                ('priority', models.PositiveSmallIntegerField(default=1, help_text='1 is drawn on first.')),
            ],
            options={
                'indexes': [models.Index(fields=['warehouse', 'store_location'], name='mapping_by_warehouse')],
                'constraints': [merchants.tenancy.SameMerchant(field='group', name='mapping_group_of_merchant'), merchants.tenancy.CompositeKey(columns=('group', 'store_location'), name='mapping_location_of_group', parent='locations.GroupLocation', parent_columns=('group', 'store_location')), merchants.tenancy.CompositeKey(columns=('group', 'warehouse'), name='mapping_warehouse_of_group', parent='locations.GroupWarehouse', parent_columns=('group', 'warehouse')), models.UniqueConstraint(fields=('store_location', 'warehouse'), name='mapping_once'), models.UniqueConstraint(deferrable=django.db.models.constraints.Deferrable['DEFERRED'], fields=('store_location', 'priority'), name='mapping_priority_once')],
            },
        ),
        migrations.CreateModel(
            name='PublishingRule',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('channel', models.ForeignKey(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='publishing_rules', to='channels.channel')),
                ('sku', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='inventory.sku')),
                ('listing', models.ForeignKey(blank=True, db_constraint=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='publishing_rules', to='channels.listing')),
                ('buffer_units', models.PositiveIntegerField(blank=True, help_text='Units kept back from this channel.', null=True)),
                ('buffer_percent', models.DecimalField(blank=True, decimal_places=2, help_text='Share of what is available kept back, rounded up to whole units, besides the units.', max_digits=5, null=True, validators=[django.core.validators.MinValueValidator(0), django.core.validators.MaxValueValidator(100)])),
                ('cap', models.PositiveIntegerField(blank=True, help_text='Never show more than this.', null=True)),
                ('floor', models.PositiveIntegerField(blank=True, help_text='Show zero when less than this is left.', null=True)),
            ],
            options={
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='publishing_rule_channel_of_merchant'), merchants.tenancy.SameMerchant(field='sku', name='publishing_rule_sku_of_merchant'), merchants.tenancy.SameMerchant(field='listing', name='publishing_rule_listing_of_merchant'), models.UniqueConstraint(condition=models.Q(('listing__isnull', True), ('sku__isnull', True)), fields=('channel',), name='publishing_rule_once_per_channel'), models.UniqueConstraint(condition=models.Q(('sku__isnull', False)), fields=('channel', 'sku'), name='publishing_rule_once_per_sku'), models.UniqueConstraint(condition=models.Q(('listing__isnull', False)), fields=('listing',), name='publishing_rule_once_per_listing'), models.CheckConstraint(condition=models.Q(('sku__isnull', True), ('listing__isnull', True), _connector='OR'), name='publishing_rule_one_target'), models.CheckConstraint(condition=models.Q(('buffer_percent__isnull', True), models.Q(('buffer_percent__gte', 0), ('buffer_percent__lte', 100)), _connector='OR'), name='publishing_rule_percent_in_range')],
            },
        ),
    ]

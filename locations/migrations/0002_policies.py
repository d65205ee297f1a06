import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('channels', '0003_engine'),
        ('locations', '0001_initial'),
        ('merchants', '0002_append_only'),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name='locationgroup',
            name='location_group_policy_known',
        ),
        migrations.AddField(
            model_name='grouplocation',
            name='weight',
            field=models.DecimalField(db_default=1, decimal_places=2, default=1, help_text="Its share of divided units, against the others' weights. 0: none.", max_digits=6, validators=[django.core.validators.MinValueValidator(0)]),
        ),
        migrations.AddField(
            model_name='locationgroup',
            name='allows_split_shipment',
            field=models.BooleanField(db_default=False, default=False, help_text='The parts of one bundle may be shipped from different warehouses.', verbose_name='bundles from several warehouses'),
        ),
        migrations.AddField(
            model_name='locationgroup',
            name='guard_units',
            field=models.PositiveIntegerField(blank=True, help_text='Units of a SKU. Empty: computed from how fast it sells and how long news takes.', null=True, validators=[django.core.validators.MaxValueValidator(1000000)], verbose_name='divide at or below'),
        ),
        migrations.AddField(
            model_name='locationgroup',
            name='holds_weight',
            field=models.DecimalField(db_default=0, decimal_places=2, default=0, help_text="The share of holds made through the API, against the store locations' weights. 0: none.", max_digits=6, validators=[django.core.validators.MinValueValidator(0)], verbose_name='weight of holds'),
        ),
        migrations.AddField(
            model_name='locationgroup',
            name='weighting',
            field=models.CharField(choices=[('fixed', 'The weights of the store locations'), ('velocity', 'What each of them usually sells')], db_default='fixed', default='fixed', max_length=10, verbose_name='divide by'),
        ),
        migrations.AlterField(
            model_name='locationgroup',
            name='policy',
            field=models.CharField(choices=[('guard', 'Guard: shared while there is plenty, split when it is scarce'), ('shared', 'Shared: every store shows the whole pool'), ('split', 'Split: every unit is in one store only')], db_default='guard', default='guard', max_length=10),
        ),
        migrations.AddConstraint(
            model_name='grouplocation',
            constraint=models.CheckConstraint(condition=models.Q(('weight__gte', 0)), name='group_location_weight_not_negative'),
        ),
        migrations.AddConstraint(
            model_name='locationgroup',
            constraint=models.CheckConstraint(condition=models.Q(('policy__in', ['guard', 'shared', 'split'])), name='location_group_policy_known'),
        ),
        migrations.AddConstraint(
            model_name='locationgroup',
            constraint=models.CheckConstraint(condition=models.Q(('weighting__in', ['fixed', 'velocity'])), name='location_group_weighting_known'),
        ),
        migrations.AddConstraint(
            model_name='locationgroup',
            constraint=models.CheckConstraint(condition=models.Q(('guard_units__isnull', True), models.Q(('guard_units__gte', 0), ('guard_units__lte', 1000000)), _connector='OR'), name='location_group_guard_in_range'),
        ),
        migrations.AddConstraint(
            model_name='locationgroup',
            constraint=models.CheckConstraint(condition=models.Q(('holds_weight__gte', 0)), name='location_group_holds_weight_not_negative'),
        ),
    ]

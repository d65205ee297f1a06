from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("inventory", "0008_merchant_by_reference"),
    ]

    operations = [
        migrations.AddField(
            model_name="hold",
            name="source",
            field=models.CharField(blank=True, db_default='', help_text='How the API key begins that made it.', max_length=20),
        ),
        migrations.AddField(
            model_name="hold",
            name="committed_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="hold",
            name="closed_at",
            field=models.DateTimeField(blank=True, null=True, verbose_name='its sale was fulfilled or cancelled'),
        ),
        migrations.AlterField(
            model_name="hold",
            name="state",
            field=models.CharField(choices=[('active', 'Active'), ('committed', 'Committed'), ('released', 'Released'), ('fulfilled', 'Fulfilled'), ('cancelled', 'Cancelled')], db_default='active', default='active', max_length=10),
        ),
        # When it was committed nobody wrote down: those that wait for their order have waited since their hold, as far as we
        # know.
        migrations.RunSQL(
            sql="UPDATE inventory_hold SET committed_at = coalesce(ended_at, created_at) WHERE state = 'committed'",
            reverse_sql=migrations.RunSQL.noop,
        ),
        migrations.RemoveConstraint(model_name="hold", name="hold_state_known"),
        migrations.AddConstraint(
            model_name="hold",
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['active', 'committed', 'released', 'fulfilled', 'cancelled'])), name='hold_state_known'),
        ),
        migrations.RemoveConstraint(model_name="hold", name="hold_ends_with_its_state"),
        migrations.AddConstraint(
            model_name="hold",
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('ended_at', None), ('state', 'active')), models.Q(('ended_at__isnull', False), ('state', 'released')), models.Q(('state', 'committed'), models.Q(('ended_at__isnull', False), ('order_channel_id__isnull', False), _connector='OR')), models.Q(('ended_at__isnull', False), ('order_channel_id', None), ('state__in', ['fulfilled', 'cancelled'])), _connector='OR'), name='hold_ends_with_its_state'),
        ),
        migrations.AddConstraint(
            model_name="hold",
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('closed_at__isnull', False), ('state__in', ['fulfilled', 'cancelled'])), models.Q(models.Q(('state__in', ['fulfilled', 'cancelled']), _negated=True), ('closed_at', None)), _connector='OR'), name='hold_closed_exactly_when_dated'),
        ),
    ]

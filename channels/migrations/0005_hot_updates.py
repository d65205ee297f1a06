import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.comparison
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('channels', '0004_clock_suspects'),
        ('inventory', '0006_bom_without_cycles'),
        ('merchants', '0003_api_keys'),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name='inboxevent',
            name='inbox_event_due',
        ),
        migrations.RemoveIndex(
            model_name='listinglevel',
            name='listing_level_out_of_sync',
        ),
        migrations.AddField(
            model_name='listinglevel',
            name='is_out_of_sync',
            field=models.GeneratedField(db_persist=True, expression=models.ExpressionWrapper(models.Q(('desired__isnull', False), models.Q(('desired', django.db.models.functions.comparison.Coalesce(django.db.models.expressions.CombinedExpression(models.F('sample'), '+', models.F('since_sample')), django.db.models.expressions.CombinedExpression(django.db.models.expressions.CombinedExpression(models.F('base'), '+', models.F('order_effects')), '+', models.F('pushed')))), _negated=True)), output_field=models.BooleanField()), output_field=models.BooleanField()),
        ),
        migrations.AlterField(
            model_name='inboxevent',
            name='merchant',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant'),
        ),
        migrations.AddIndex(
            model_name='inboxevent',
            index=models.Index(condition=models.Q(('state', 'pending')), fields=['merchant', 'id'], name='inbox_event_pending'),
        ),
        migrations.AddIndex(
            model_name='listinglevel',
            index=models.Index(condition=models.Q(('is_out_of_sync', True)), fields=['channel', 'next_push_at'], name='listing_level_out_of_sync'),
        ),
        # Room for a row's next version on its own page, where it needs no new entries in the indexes.
        migrations.RunSQL(
            sql=[
                "ALTER TABLE channels_inboxevent SET (fillfactor = 50)",  # the bodies are kept elsewhere
                "ALTER TABLE channels_listinglevel SET (fillfactor = 70)",
            ],
            reverse_sql=[
                "ALTER TABLE channels_inboxevent RESET (fillfactor)",
                "ALTER TABLE channels_listinglevel RESET (fillfactor)",
            ],
        ),
    ]

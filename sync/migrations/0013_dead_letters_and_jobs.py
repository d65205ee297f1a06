import django.db.models.deletion
import django.db.models.functions.datetime
import merchants.tenancy
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('channels', '0013_samples_by_store_clock'),
        ('merchants', '0004_sync_scopes'),
        ('sync', '0012_forget_bodies'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Job',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(max_length=40)),
                ('parameters', models.JSONField(blank=True, default=dict)),
                ('preview', models.CharField(blank=True, db_default='', max_length=500)),
                ('state', models.CharField(choices=[('waiting', 'Waiting for a worker'), ('running', 'Running'), ('cancelling', 'Ending after the batch that is under way'), ('done', 'Done'), ('cancelled', 'Cancelled'), ('failed', 'Failed')], db_default='waiting', default='waiting', max_length=10)),
                ('total', models.PositiveIntegerField(db_default=0, default=0, verbose_name='counted beforehand')),
                ('done', models.PositiveIntegerField(db_default=0, default=0)),
                ('changed', models.PositiveIntegerField(db_default=0, default=0)),
                ('failed', models.PositiveIntegerField(db_default=0, default=0)),
                ('tally', models.JSONField(blank=True, default=dict)),
                ('cursor', models.JSONField(blank=True, default=dict, editable=False)),
                ('result', models.CharField(blank=True, db_default='', max_length=500)),
                ('error', models.CharField(blank=True, db_default='', help_text='Why the latest batch failed.', max_length=500)),
                ('failures', models.PositiveSmallIntegerField(db_default=0, default=0, editable=False)),
                ('next_attempt_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('lease_token', models.UUIDField(blank=True, editable=False, null=True)),
                ('correlation_id', models.UUIDField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('started_at', models.DateTimeField(blank=True, null=True)),
                ('finished_at', models.DateTimeField(blank=True, null=True)),
                ('api_key', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.apikey')),
                ('created_by', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
            ],
        ),
        migrations.CreateModel(
            name='DeadLetter',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('cause', models.CharField(choices=[('unreadable', 'The message cannot be read'), ('refused', 'The store refuses it'), ('not_authorized', 'The store does not let us in'), ('channel_away', 'The store does not answer'), ('unknown_outcome', 'The store does not say whether it was done'), ('poison', 'Workers died over it'), ('bug', 'A mistake of SyncTec')], max_length=20)),
                ('code', models.CharField(blank=True, db_default='', max_length=80)),
                ('said', models.CharField(blank=True, db_default='', max_length=500, verbose_name='what was said last')),
                ('attempts', models.PositiveIntegerField(db_default=0, default=0)),
                ('correlation_id', models.UUIDField(blank=True, null=True)),
                ('state', models.CharField(choices=[('open', 'Needs somebody'), ('retried', 'Is being tried again'), ('recovered', 'Recovered'), ('dismissed', 'Dismissed')], db_default='open', default='open', max_length=10)),
                ('opened_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('ended_at', models.DateTimeField(blank=True, help_text='When what it is about had come right.', null=True)),
                ('outcome', models.CharField(blank=True, db_default='', max_length=200)),
                ('retries', models.PositiveIntegerField(db_default=0, default=0)),
                ('retried_at', models.DateTimeField(blank=True, null=True)),
                ('dismissed_at', models.DateTimeField(blank=True, null=True)),
                ('dismissed_because', models.CharField(blank=True, db_default='', max_length=500)),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.channel')),
                ('dismissed_by', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('event', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='channels.inboxevent')),
                ('listing_level', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.listinglevel')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('retried_by_job', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='sync.job')),
            ],
        ),
        migrations.CreateModel(
            name='Attempt',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('number', models.PositiveIntegerField()),
                ('started_at', models.DateTimeField(blank=True, help_text='Empty: its worker died without a word.', null=True)),
                ('ended_at', models.DateTimeField()),
                ('answer', models.CharField(max_length=500)),
                ('batch', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.pushbatch')),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.channel')),
                ('event', models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='channels.inboxevent')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
            ],
            options={
                'indexes': [models.Index(condition=models.Q(('event__isnull', False)), fields=['event', 'id'], name='attempt_by_event'), models.Index(condition=models.Q(('batch__isnull', False)), fields=['batch', 'id'], name='attempt_by_batch'), models.Index(fields=['ended_at'], name='attempt_by_age')],
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='attempt_channel_of_merchant'), merchants.tenancy.SameMerchant(field='batch', name='attempt_batch_of_merchant'), models.CheckConstraint(condition=models.Q(models.Q(('batch__isnull', True), ('event__isnull', False)), models.Q(('batch__isnull', False), ('event__isnull', True)), _connector='OR'), name='attempt_of_one_thing')],
            },
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(condition=models.Q(('state__in', ('waiting', 'running', 'cancelling'))), fields=['next_attempt_at'], name='job_under_way'),
        ),
        migrations.AddIndex(
            model_name='job',
            index=models.Index(fields=['merchant', '-id'], name='job_by_merchant'),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=models.UniqueConstraint(fields=('merchant', 'id'), name='job_tenant_identity'),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=merchants.tenancy.SameMerchant(field='api_key', name='job_api_key_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['waiting', 'running', 'cancelling', 'done', 'cancelled', 'failed'])), name='job_state_known'),
        ),
        migrations.AddConstraint(
            model_name='job',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('finished_at__isnull', True), ('state__in', ('waiting', 'running', 'cancelling'))), models.Q(models.Q(('state__in', ('waiting', 'running', 'cancelling')), _negated=True), ('finished_at__isnull', False)), _connector='OR'), name='job_finished_exactly_when_dated'),
        ),
        migrations.AddIndex(
            model_name='deadletter',
            index=models.Index(condition=models.Q(('ended_at', None)), fields=['merchant', 'channel', 'cause', 'code', 'id'], name='dead_letter_living'),
        ),
        migrations.AddIndex(
            model_name='deadletter',
            index=models.Index(fields=['merchant', '-id'], name='dead_letter_by_merchant'),
        ),
        migrations.AddIndex(
            model_name='deadletter',
            index=models.Index(condition=models.Q(('retried_by_job__isnull', False)), fields=['retried_by_job'], name='dead_letter_by_job'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=models.UniqueConstraint(fields=('merchant', 'id'), name='dead_letter_tenant_identity'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=merchants.tenancy.SameMerchant(field='channel', name='dead_letter_channel_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=merchants.tenancy.SameMerchant(field='listing_level', name='dead_letter_level_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=merchants.tenancy.SameMerchant(field='retried_by_job', name='dead_letter_job_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=models.CheckConstraint(condition=models.Q(('cause__in', ['unreadable', 'refused', 'not_authorized', 'channel_away', 'unknown_outcome', 'poison', 'bug'])), name='dead_letter_cause_known'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['open', 'retried', 'recovered', 'dismissed'])), name='dead_letter_state_known'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('event__isnull', False), ('listing_level__isnull', True)), models.Q(('event__isnull', True), ('listing_level__isnull', False)), _connector='OR'), name='dead_letter_about_one_thing'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('ended_at__isnull', True), ('state__in', ['open', 'retried'])), models.Q(('ended_at__isnull', False), ('state', 'recovered')), ('state', 'dismissed'), _connector='OR'), name='dead_letter_recovered_when_ended'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('state', 'dismissed'), _negated=True), models.Q(('dismissed_at__isnull', False), models.Q(('dismissed_because', ''), _negated=True)), _connector='OR'), name='dead_letter_dismissed_for_a_reason'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=models.UniqueConstraint(condition=models.Q(('ended_at', None)), fields=('event',), name='dead_letter_once_per_event'),
        ),
        migrations.AddConstraint(
            model_name='deadletter',
            constraint=models.UniqueConstraint(condition=models.Q(('ended_at', None)), fields=('listing_level',), name='dead_letter_once_per_level'),
        ),
    ]

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
import merchants.tenancy
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("merchants", "0006_health_scope"),
    ]

    operations = [
        migrations.CreateModel(
            name='Notification',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.CharField(max_length=120)),
                ('severity', models.CharField(choices=[('info', 'For your information'), ('warning', 'Warning: look at it today'), ('critical', 'Critical: look at it now')], max_length=10)),
                ('is_recovery', models.BooleanField(db_default=False, default=False)),
                ('title', models.CharField(max_length=200)),
                ('text', models.TextField(blank=True)),
                ('path', models.CharField(blank=True, help_text='The page of ours that shows it.', max_length=200)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
        ),
        migrations.CreateModel(
            name='NotificationMessage',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('message_id', models.CharField(max_length=60, unique=True)),
                ('subject', models.CharField(max_length=200)),
                ('content', models.JSONField()),
                ('severity', models.CharField(choices=[('info', 'For your information'), ('warning', 'Warning: look at it today'), ('critical', 'Critical: look at it now')], max_length=10)),
                ('is_test', models.BooleanField(db_default=False, default=False)),
                ('state', models.CharField(choices=[('open', 'On its way'), ('sent', 'Sent'), ('failed', 'Given up: what came after it is told in its place')], db_default='open', default='open', max_length=10)),
                ('attempts', models.PositiveIntegerField(db_default=0, default=0)),
                ('log', models.JSONField(db_default=[], default=list, verbose_name='attempts')),
                ('answer', models.CharField(blank=True, max_length=300, verbose_name='latest answer')),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('settled_at', models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name='NotificationTarget',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=80)),
                ('way', models.CharField(choices=[('email', 'E-mail'), ('slack', 'Slack, or whatever takes its incoming webhooks'), ('webhook', 'Signed webhook (Standard Webhooks)')], max_length=10)),
                ('address', models.CharField(blank=True, help_text='Shown to people; of a Slack address its host only.', max_length=500)),
                ('sealed_address', models.TextField(blank=True, editable=False)),
                ('sealed_secret', models.TextField(blank=True, editable=False)),
                ('state', models.CharField(choices=[('active', 'Active'), ('off', 'Switched off'), ('gone', 'Switched off: it said that it is gone')], db_default='active', default='active', max_length=10)),
                ('state_reason', models.CharField(blank=True, max_length=300)),
                ('minimum_severity', models.CharField(choices=[('info', 'For your information'), ('warning', 'Warning: look at it today'), ('critical', 'Critical: look at it now')], db_default='warning', default='warning', max_length=10, verbose_name='tell from')),
                ('kinds', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('stock', 'Stock: shortages, low stock, reordering'), ('sync', 'Sync: delays, dead letters, numbers that are wrong'), ('channels', 'Channels: outages, permissions, subscriptions'), ('machine', 'The installation: workers, schedule, databases')], max_length=10), size=None, verbose_name='about')),
                ('quiet_from', models.TimeField(blank=True, help_text='From here to the end of the quiet hours only critical alerts are told of.', null=True)),
                ('quiet_until', models.TimeField(blank=True, help_text="By the merchant's clock.", null=True, verbose_name='quiet until')),
                ('hourly_max', models.PositiveSmallIntegerField(db_default=12, default=12, help_text='The rest waits and comes together in the next one. A critical alert is told at once, once.', verbose_name='messages an hour at most')),
                ('failures', models.PositiveIntegerField(db_default=0, default=0, editable=False, verbose_name='failures in a row')),
                ('failing_since', models.DateTimeField(blank=True, editable=False, null=True)),
                ('next_attempt_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
                ('lease', models.UUIDField(editable=False, null=True)),
                ('last_delivered_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
        ),
        migrations.RemoveConstraint(
            model_name='apikey',
            name='api_key_scopes_known',
        ),
        migrations.AlterField(
            model_name='apikey',
            name='scopes',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('stock:read', 'Read stock and transfers'), ('stock:write', 'Report movements, transfers and counts'), ('holds:write', 'Reserve stock'), ('feed:read', 'Follow every change of stock'), ('sync:read', 'Read dead letters and jobs'), ('sync:write', 'Try dead letters again, replay events, have listings read again'), ('health:read', 'Read the health scorecard'), ('alerts:read', 'Read alerts'), ('alerts:write', 'Acknowledge and snooze alerts')], max_length=20), size=None),
        ),
        migrations.AddConstraint(
            model_name='apikey',
            constraint=models.CheckConstraint(condition=models.Q(('scopes__contained_by', ['stock:read', 'stock:write', 'holds:write', 'feed:read', 'sync:read', 'sync:write', 'health:read', 'alerts:read', 'alerts:write']), ('scopes__len__gt', 0)), name='api_key_scopes_known'),
        ),
        migrations.AddConstraint(
            model_name='member',
            constraint=models.UniqueConstraint(fields=('merchant', 'id'), name='member_tenant_identity'),
        ),
        migrations.AddField(
            model_name='notification',
            name='merchant',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant'),
        ),
        migrations.AddField(
            model_name='notificationmessage',
            name='merchant',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant'),
        ),
        migrations.AddField(
            model_name='notification',
            name='message',
            field=models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='notifications', to='merchants.notificationmessage'),
        ),
        migrations.AddField(
            model_name='notificationtarget',
            name='member',
            field=models.ForeignKey(blank=True, db_constraint=False, help_text='This person, at the e-mail address they sign in with.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='notification_targets', to='merchants.member'),
        ),
        migrations.AddField(
            model_name='notificationtarget',
            name='merchant',
            field=models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='notification_targets', to='merchants.merchant'),
        ),
        migrations.AddField(
            model_name='notificationmessage',
            name='target',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='messages', to='merchants.notificationtarget'),
        ),
        migrations.AddField(
            model_name='notification',
            name='target',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.notificationtarget'),
        ),
        migrations.AddIndex(
            model_name='notificationtarget',
            index=models.Index(condition=models.Q(('state', 'active')), fields=['next_attempt_at'], name='notification_target_due'),
        ),
        migrations.AddIndex(
            model_name='notificationtarget',
            index=models.Index(condition=models.Q(('failing_since__isnull', False)), fields=['merchant'], name='notification_target_failing'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.UniqueConstraint(fields=('merchant', 'id'), name='notification_target_tenant_identity'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=merchants.tenancy.SameMerchant(field='member', name='notification_target_member_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.UniqueConstraint(fields=('merchant', 'name'), name='notification_target_name_once'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.UniqueConstraint(fields=('member',), name='notification_target_once_per_member'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.CheckConstraint(condition=models.Q(('way__in', ['email', 'slack', 'webhook'])), name='notification_target_way_known'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['active', 'off', 'gone'])), name='notification_target_state_known'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.CheckConstraint(condition=models.Q(('minimum_severity__in', ['info', 'warning', 'critical'])), name='notification_target_severity_known'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.CheckConstraint(condition=models.Q(('kinds__contained_by', ['stock', 'sync', 'channels', 'machine']), ('kinds__len__gt', 0)), name='notification_target_kinds_known'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.CheckConstraint(condition=models.Q(('member__isnull', True), ('way', 'email'), _connector='OR'), name='notification_target_member_by_email'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('quiet_from__isnull', True), ('quiet_until__isnull', True)), models.Q(('quiet_from__isnull', False), ('quiet_until__isnull', False)), _connector='OR'), name='notification_target_quiet_hours_whole'),
        ),
        migrations.AddConstraint(
            model_name='notificationtarget',
            constraint=models.CheckConstraint(condition=models.Q(('hourly_max__gt', 0)), name='notification_target_hourly_max_positive'),
        ),
        migrations.AddIndex(
            model_name='notificationmessage',
            index=models.Index(fields=['target', '-id'], name='notification_message_by_target'),
        ),
        migrations.AddIndex(
            model_name='notificationmessage',
            index=models.Index(fields=['merchant', '-id'], name='notification_message_newest'),
        ),
        migrations.AddIndex(
            model_name='notificationmessage',
            index=models.Index(condition=models.Q(('state', 'open'), _negated=True), fields=['created_at'], name='notification_message_by_age'),
        ),
        migrations.AddConstraint(
            model_name='notificationmessage',
            constraint=models.UniqueConstraint(fields=('merchant', 'id'), name='notification_message_tenant_identity'),
        ),
        migrations.AddConstraint(
            model_name='notificationmessage',
            constraint=merchants.tenancy.SameMerchant(field='target', name='notification_message_target_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='notificationmessage',
            constraint=models.UniqueConstraint(condition=models.Q(('is_test', False), ('state', 'open')), fields=('target',), name='notification_message_one_open'),
        ),
        migrations.AddConstraint(
            model_name='notificationmessage',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['open', 'sent', 'failed'])), name='notification_message_state_known'),
        ),
        migrations.AddConstraint(
            model_name='notificationmessage',
            constraint=models.CheckConstraint(condition=models.Q(('severity__in', ['info', 'warning', 'critical'])), name='notification_message_severity_known'),
        ),
        migrations.AddConstraint(
            model_name='notificationmessage',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('settled_at__isnull', True), ('state', 'open')), models.Q(models.Q(('state', 'open'), _negated=True), ('settled_at__isnull', False)), _connector='OR'), name='notification_message_settled_exactly_when_dated'),
        ),
        migrations.AddIndex(
            model_name='notification',
            index=models.Index(condition=models.Q(('message__isnull', True)), fields=['target', 'id'], name='notification_waiting'),
        ),
        migrations.AddIndex(
            model_name='notification',
            index=models.Index(condition=models.Q(('message__isnull', False)), fields=['message'], name='notification_by_message'),
        ),
        migrations.AddConstraint(
            model_name='notification',
            constraint=merchants.tenancy.SameMerchant(field='target', name='notification_target_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='notification',
            constraint=merchants.tenancy.SameMerchant(field='message', name='notification_message_of_merchant'),
        ),
        migrations.AddConstraint(
            model_name='notification',
            constraint=models.UniqueConstraint(fields=('target', 'key'), name='notification_once_per_target'),
        ),
        migrations.AddConstraint(
            model_name='notification',
            constraint=models.CheckConstraint(condition=models.Q(('severity__in', ['info', 'warning', 'critical'])), name='notification_severity_known'),
        ),
    ]

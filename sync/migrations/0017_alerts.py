import django.db.models.deletion
import merchants.tenancy
from django.conf import settings
from django.db import migrations, models


EVALUATE_EVERY_SECONDS = 30
TELL_EVERY_SECONDS = 15


def create_schedule(apps, schema_editor):
    """Rows, not settings: people may change them in the admin, and a restart keeps what they chose."""
    interval_of = apps.get_model("django_celery_beat", "IntervalSchedule").objects
    task = apps.get_model("django_celery_beat", "PeriodicTask").objects
    for name, what, seconds in (
        ("Alerts: evaluate the rules", "sync.tasks.evaluate_alerts", EVALUATE_EVERY_SECONDS),
        ("Alerts: tell notification targets", "merchants.tasks.sweep_targets", TELL_EVERY_SECONDS),
    ):
        interval, _ = interval_of.get_or_create(every=seconds, period="seconds")
        # A ring nobody answered in time is worth nothing: the next one comes anyway.
        task.get_or_create(name=name, defaults={"task": what, "interval": interval, "expire_seconds": seconds})


class Migration(migrations.Migration):

    dependencies = [
        ("django_celery_beat", "0019_alter_periodictasks_options"),
        ("channels", "0018_subscription_checks"),
        ("merchants", "0007_notifications"),
        ("sync", "0016_scorecard"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='ProcessBeat',
            fields=[
                ('name', models.CharField(max_length=120, primary_key=True, serialize=False)),
                ('started_at', models.DateTimeField()),
                ('progressed_at', models.DateTimeField()),
                ('clock_ahead_seconds', models.FloatField(db_default=0, default=0)),
                ('stopped_at', models.DateTimeField(blank=True, help_text='When it ended as it was told to.', null=True)),
            ],
        ),
        migrations.CreateModel(
            name='RuleCheck',
            fields=[
                ('name', models.CharField(max_length=40, primary_key=True, serialize=False)),
                ('first_asked_at', models.DateTimeField()),
                ('asked_at', models.DateTimeField()),
                ('seconds', models.FloatField(db_default=0, default=0)),
                ('error', models.CharField(blank=True, db_default='', max_length=300)),
                ('failing_since', models.DateTimeField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name='SizeSample',
            fields=[
                ('taken_at', models.DateTimeField(primary_key=True, serialize=False)),
                ('database_bytes', models.BigIntegerField()),
                ('inbox_waiting', models.BigIntegerField(verbose_name='events that wait')),
                ('outbox_waiting', models.BigIntegerField(verbose_name='levels and SKUs that wait to be told')),
                ('redis_bytes', models.BigIntegerField(blank=True, null=True)),
                ('redis_bytes_max', models.BigIntegerField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name='Alert',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('rule', models.CharField(max_length=40)),
                ('subject', models.CharField(help_text='Such as channel:3, merchant:1, installation.', max_length=120)),
                ('severity', models.CharField(choices=[('info', 'For your information'), ('warning', 'Warning: look at it today'), ('critical', 'Critical: look at it now')], max_length=10)),
                ('state', models.CharField(choices=[('pending', 'About to be raised'), ('firing', 'Firing'), ('acknowledged', 'Acknowledged'), ('recovered', 'Recovered')], default='pending', max_length=15)),
                ('title', models.CharField(max_length=200)),
                ('text', models.TextField(blank=True)),
                ('members', models.JSONField(db_default=[], default=list)),
                ('value', models.FloatField()),
                ('worst', models.FloatField()),
                ('cause', models.CharField(blank=True, db_default='', max_length=170)),
                ('since', models.DateTimeField()),
                ('raised_at', models.DateTimeField(blank=True, null=True)),
                ('better_since', models.DateTimeField(blank=True, null=True)),
                ('recovered_at', models.DateTimeField(blank=True, null=True)),
                ('told_at', models.DateTimeField(blank=True, null=True)),
                ('times_told', models.PositiveIntegerField(db_default=0, default=0)),
                ('told_value', models.FloatField(blank=True, null=True)),
                ('told_members', models.JSONField(db_default=[], default=list)),
                ('told_severity', models.CharField(blank=True, choices=[('info', 'For your information'), ('warning', 'Warning: look at it today'), ('critical', 'Critical: look at it now')], db_default='', max_length=10)),
                ('acknowledged_at', models.DateTimeField(blank=True, null=True)),
                ('acknowledged_with', models.CharField(blank=True, db_default='', max_length=20, verbose_name='API key')),
                ('note', models.CharField(blank=True, db_default='', max_length=500)),
                ('snoozed_until', models.DateTimeField(blank=True, null=True)),
                ('acknowledged_by', models.ForeignKey(blank=True, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('channel', models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='channels.channel')),
                ('merchant', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
            ],
            options={
                'indexes': [models.Index(fields=['merchant', '-id'], name='alert_by_merchant'), models.Index(condition=models.Q(('state', 'recovered'), _negated=True), fields=['merchant'], name='alert_open'), models.Index(condition=models.Q(('state', 'recovered')), fields=['recovered_at'], name='alert_by_age')],
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='alert_channel_of_merchant'), models.UniqueConstraint(condition=models.Q(('state', 'recovered'), _negated=True), fields=('rule', 'subject'), name='alert_one_open_per_cause'), models.CheckConstraint(condition=models.Q(('state__in', ['pending', 'firing', 'acknowledged', 'recovered'])), name='alert_state_known'), models.CheckConstraint(condition=models.Q(('severity__in', ['info', 'warning', 'critical'])), name='alert_severity_known'), models.CheckConstraint(condition=models.Q(models.Q(('raised_at__isnull', True), ('state', 'pending')), models.Q(models.Q(('state', 'pending'), _negated=True), ('raised_at__isnull', False)), _connector='OR'), name='alert_raised_exactly_when_dated'), models.CheckConstraint(condition=models.Q(models.Q(('recovered_at__isnull', False), ('state', 'recovered')), models.Q(models.Q(('state', 'recovered'), _negated=True), ('recovered_at__isnull', True)), _connector='OR'), name='alert_recovered_exactly_when_dated'), models.CheckConstraint(condition=models.Q(models.Q(('state', 'acknowledged'), _negated=True), ('acknowledged_at__isnull', False), _connector='OR'), name='alert_acknowledged_at')],
            },
        ),
        migrations.CreateModel(
            name='RuleOverride',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('rule', models.CharField(max_length=40)),
                ('is_on', models.BooleanField(db_default=True, default=True, verbose_name='on')),
                ('raise_at', models.FloatField(blank=True, help_text='The alert is raised from here on.', null=True)),
                ('clear_at', models.FloatField(blank=True, help_text='It recovers from here on.', null=True)),
                ('critical_at', models.FloatField(blank=True, help_text='It is critical from here on.', null=True)),
                ('hold_seconds', models.PositiveIntegerField(blank=True, help_text='It must last so long before the alert is raised.', null=True, verbose_name='hold (seconds)')),
                ('merchant', models.ForeignKey(blank=True, help_text='Empty for the rules of the installation.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
            ],
            options={
                'verbose_name': 'alert rule',
                'constraints': [models.UniqueConstraint(fields=('merchant', 'rule'), name='rule_override_once_per_merchant', nulls_distinct=False), models.CheckConstraint(condition=models.Q(('rule', ''), _negated=True), name='rule_override_names_a_rule')],
            },
        ),
        migrations.RunPython(create_schedule, migrations.RunPython.noop),
    ]

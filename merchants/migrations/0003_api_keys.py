import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
import merchants.tenancy
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('merchants', '0002_append_only'),
    ]

    operations = [
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='api_keys', to='merchants.merchant')),
                ('name', models.CharField(help_text='Which program uses it, such as: warehouse system.', max_length=80)),
                ('prefix', models.CharField(editable=False, help_text='How the key begins, to tell keys apart.', max_length=20, unique=True)),
                ('secret_sha256', models.BinaryField(max_length=32, unique=True)),
                ('scopes', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(choices=[('stock:read', 'Read stock and transfers'), ('stock:write', 'Report movements, transfers and counts'), ('holds:write', 'Reserve stock'), ('feed:read', 'Follow every change of stock')], max_length=20), size=None)),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('last_used_at', models.DateTimeField(blank=True, editable=False, null=True, verbose_name='last used (to within minutes)')),
                ('revoked_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('created_by', models.ForeignKey(db_index=False, editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'verbose_name': 'API key',
                'verbose_name_plural': 'API keys',
                'constraints': [models.UniqueConstraint(fields=('merchant', 'id'), name='api_key_tenant_identity'), models.CheckConstraint(condition=models.Q(('scopes__contained_by', ['stock:read', 'stock:write', 'holds:write', 'feed:read']), ('scopes__len__gt', 0)), name='api_key_scopes_known')],
            },
        ),
        migrations.CreateModel(
            name='RememberedAnswer',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('merchant', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
                ('key', models.CharField(max_length=255)),
                ('request_sha256', models.BinaryField(max_length=32)),
                ('status', models.PositiveSmallIntegerField()),
                ('body', models.TextField()),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), editable=False)),
            ],
            options={
                'indexes': [models.Index(fields=['created_at'], name='remembered_answer_by_age')],
                'constraints': [models.UniqueConstraint(fields=('merchant', 'key'), name='remembered_answer_once')],
            },
        ),
        migrations.RemoveConstraint(
            model_name='auditevent',
            name='audit_event_actor_known',
        ),
        migrations.AlterField(
            model_name='auditevent',
            name='actor_kind',
            field=models.CharField(choices=[('user', 'User'), ('system', 'System'), ('channel', 'Channel'), ('api', 'Api')], max_length=10),
        ),
        migrations.AddConstraint(
            model_name='auditevent',
            constraint=models.CheckConstraint(condition=models.Q(('actor_kind__in', ['user', 'system', 'channel', 'api'])), name='audit_event_actor_known'),
        ),
        migrations.AddField(
            model_name='auditevent',
            name='api_key',
            field=models.ForeignKey(blank=True, db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.apikey'),
        ),
        migrations.AddConstraint(
            model_name='auditevent',
            constraint=merchants.tenancy.SameMerchant(field='api_key', name='audit_event_api_key_of_merchant'),
        ),
    ]

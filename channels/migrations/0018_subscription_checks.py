import django.contrib.postgres.fields
import django.db.models.deletion
import merchants.tenancy
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("channels", "0017_shadow_mode"),
        ("merchants", "0007_notifications"),
    ]

    operations = [
        migrations.CreateModel(
            name='SubscriptionCheck',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('checked_at', models.DateTimeField()),
                ('error', models.CharField(blank=True, db_default='', help_text='Which could not be made again, and why.', max_length=500)),
                ('missing', django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=80), blank=True, db_default=[], default=list, size=None)),
                ('gap_from', models.DateTimeField(blank=True, null=True)),
                ('repaired_at', models.DateTimeField(blank=True, null=True)),
                ('channel', models.OneToOneField(db_constraint=False, on_delete=django.db.models.deletion.CASCADE, related_name='subscription_check', to='channels.channel')),
                ('merchant', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='merchants.merchant')),
            ],
            options={
                'constraints': [merchants.tenancy.SameMerchant(field='channel', name='subscription_check_channel_of_merchant')],
            },
        ),
    ]

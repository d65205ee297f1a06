from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('channels', '0008_doubtful_lowers'),
    ]

    operations = [
        migrations.AddField(
            model_name='channel',
            name='orders_cut_short_at',
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
    ]

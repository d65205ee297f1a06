import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('sync', '0006_pass_goes_on'),
    ]

    operations = [
        # Before the foreign key's own index goes: an audit is never without one.
        migrations.AddIndex(
            model_name='orderline',
            index=models.Index(fields=['listing_level', 'updated_at'], name='order_line_by_level'),
        ),
        migrations.AlterField(
            model_name='orderline',
            name='listing_level',
            field=models.ForeignKey(db_constraint=False, db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='channels.listinglevel'),
        ),
    ]

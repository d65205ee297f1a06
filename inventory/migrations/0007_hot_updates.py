import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('inventory', '0006_bom_without_cycles'),
        ('merchants', '0003_api_keys'),
    ]

    operations = [
        migrations.AlterField(
            model_name='movement',
            name='merchant',
            field=models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='merchants.merchant'),
        ),
        # Room for a row's next version on its own page, where it needs no new entries in the indexes.
        migrations.RunSQL(
            sql="ALTER TABLE inventory_stocklevel SET (fillfactor = 70)",
            reverse_sql="ALTER TABLE inventory_stocklevel RESET (fillfactor)",
        ),
    ]

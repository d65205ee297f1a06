from django.db import migrations

#: A custom item moves nothing; of a variant that is gone, its SKU in the store is waited for.
WAITS_OF_LINES_WITHOUT_A_VARIANT = """
    UPDATE sync_orderline SET waiting_for = '', desired_committed = applied_committed, desired_on_hand = applied_on_hand
    WHERE waiting_for = 'variant without an id';
    UPDATE sync_orderline SET waiting_for = left('SKU ' || (facts ->> 'sku'), 120)
    WHERE waiting_for LIKE 'variant %' AND remote_variant_id = '' AND coalesce(facts ->> 'sku', '') <> '';
"""


class Migration(migrations.Migration):
    dependencies = [
        ("sync", "0010_placements"),
    ]

    operations = [
        migrations.RunSQL(WAITS_OF_LINES_WITHOUT_A_VARIANT, migrations.RunSQL.noop, elidable=True),
    ]

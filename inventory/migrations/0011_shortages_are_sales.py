"""Shortages are units sold that are not there. Those of units that were only held are over; the oldest are kept."""

from django.db import migrations

COVER_WHAT_WAS_ONLY_HELD = """
    WITH lacking AS (
        SELECT shortage.id, shortage.quantity, shortage.quantity - shortage.quantity_covered AS open,
            greatest(0, level.committed - level.on_hand) AS sold_beyond,
            sum(shortage.quantity - shortage.quantity_covered)
                OVER (PARTITION BY shortage.stock_level_id ORDER BY shortage.id) AS open_so_far
        FROM inventory_shortage shortage JOIN inventory_stocklevel level ON level.id = shortage.stock_level_id
        WHERE shortage.covered_at IS NULL
    ), kept AS (
        SELECT id, quantity, open, greatest(0, least(open, sold_beyond - (open_so_far - open))) AS units FROM lacking
    )
    UPDATE inventory_shortage shortage
    SET quantity_covered = kept.quantity - kept.units, covered_at = CASE WHEN kept.units = 0 THEN now() END
    FROM kept WHERE shortage.id = kept.id AND kept.units < kept.open
"""


class Migration(migrations.Migration):
    dependencies = [("inventory", "0010_warehouse_switch")]

    operations = [migrations.RunSQL(COVER_WHAT_WAS_ONLY_HELD, migrations.RunSQL.noop)]

from django.db import migrations

#: How deep bundles may be nested; `inventory.bom.LEVELS_MAX` says the same to people.
LEVELS_MAX = 5


class Migration(migrations.Migration):
    dependencies = [("inventory", "0005_holds")]

    operations = [
        migrations.RunSQL(
            sql=f"""
                -- Two transactions could each add one half of a cycle: whoever changes a merchant's bundles waits for the
                -- others to end. Each query after that sees what they committed (so not under REPEATABLE READ, where all
                -- of them would see the past).
                CREATE FUNCTION bom_take_turns(merchant bigint) RETURNS void LANGUAGE plpgsql AS $$
                BEGIN
                    IF current_setting('transaction_isolation') = 'repeatable read' THEN
                        RAISE EXCEPTION 'bundles cannot be changed under REPEATABLE READ'
                            USING ERRCODE = 'object_not_in_prerequisite_state';
                    END IF;
                    PERFORM pg_advisory_xact_lock(hashtextextended('bom', merchant));
                END $$;

                -- After, not before the row: the rows of one statement are to see each other.
                CREATE FUNCTION bom_line_fits() RETURNS trigger LANGUAGE plpgsql AS $$
                DECLARE
                    way text;
                    above int;
                    below int;
                BEGIN
                    PERFORM bom_take_turns(NEW.merchant_id);
                    -- Downwards from the component, each SKU once: is the bundle among them?
                    WITH RECURSIVE parts AS (
                        SELECT NEW.component_id AS sku_id
                        UNION
                        SELECT line.component_id FROM parts JOIN inventory_bomline line ON line.bundle_id = parts.sku_id
                    )
                    SELECT 'a cycle' INTO way FROM parts WHERE sku_id = NEW.bundle_id;
                    IF FOUND THEN
                        WITH RECURSIVE walk AS (
                            SELECT NEW.component_id AS sku_id, ARRAY[NEW.bundle_id, NEW.component_id] AS path
                            UNION ALL
                            SELECT line.component_id, walk.path || line.component_id
                            FROM walk JOIN inventory_bomline line ON line.bundle_id = walk.sku_id
                            WHERE walk.sku_id <> NEW.bundle_id AND cardinality(walk.path) <= {LEVELS_MAX + 2}
                        ), found AS (SELECT path FROM walk WHERE sku_id = NEW.bundle_id LIMIT 1)
                        SELECT string_agg(sku.code, ' > ' ORDER BY step.place) INTO way
                        FROM found, unnest(found.path) WITH ORDINALITY AS step (sku_id, place)
                        JOIN inventory_sku sku ON sku.id = step.sku_id;
                        RAISE EXCEPTION 'the bundle would contain itself: %', coalesce(way, 'by a long way')
                            USING ERRCODE = 'check_violation', CONSTRAINT = 'bom_line_without_cycle';
                    END IF;
                    WITH RECURSIVE parts AS (
                        SELECT NEW.component_id AS sku_id, 0 AS level
                        UNION
                        SELECT line.component_id, parts.level + 1
                        FROM parts JOIN inventory_bomline line ON line.bundle_id = parts.sku_id
                        WHERE parts.level <= {LEVELS_MAX}
                    )
                    SELECT max(level) INTO below FROM parts;
                    WITH RECURSIVE bundles AS (
                        SELECT NEW.bundle_id AS sku_id, 0 AS level
                        UNION
                        SELECT line.bundle_id, bundles.level + 1
                        FROM bundles JOIN inventory_bomline line ON line.component_id = bundles.sku_id
                        WHERE bundles.level <= {LEVELS_MAX}
                    )
                    SELECT max(level) INTO above FROM bundles;
                    IF above + 1 + below > {LEVELS_MAX} THEN
                        RAISE EXCEPTION 'bundles would be nested more than {LEVELS_MAX} levels deep'
                            USING ERRCODE = 'check_violation', CONSTRAINT = 'bom_line_not_too_deep';
                    END IF;
                    RETURN NULL;
                END $$;
                CREATE TRIGGER bom_line_fits AFTER INSERT OR UPDATE ON inventory_bomline
                    FOR EACH ROW EXECUTE FUNCTION bom_line_fits();
            """,
            reverse_sql="""
                DROP TRIGGER bom_line_fits ON inventory_bomline;
                DROP FUNCTION bom_line_fits();
                DROP FUNCTION bom_take_turns(bigint);
            """,
        )
    ]

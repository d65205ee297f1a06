from datetime import UTC, datetime, timedelta

from django.db import migrations, models

from channels import bodies

#: As bodies.DAYS_AHEAD was then.
DAYS = 8
KEPT_DAYS = 30
BATCH = 1_000

TABLE = """
    CREATE TABLE channels_inboxbody (
        merchant_id bigint NOT NULL,
        event_id bigint NOT NULL,
        kept_on date NOT NULL,
        sealed bytea NOT NULL,
        PRIMARY KEY (event_id, kept_on)
    ) PARTITION BY RANGE (kept_on);
    -- It arrives compressed and sealed: the server need not try.
    ALTER TABLE channels_inboxbody ALTER COLUMN sealed SET STORAGE EXTERNAL;
    CREATE TABLE channels_inboxbody_other PARTITION OF channels_inboxbody DEFAULT;
    CREATE FUNCTION channels_forget_bodies() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'TRUNCATE' THEN
            TRUNCATE channels_inboxbody;
            RETURN NULL;
        END IF;
        DELETE FROM channels_inboxbody body USING gone
        WHERE body.event_id = gone.id AND body.kept_on = gone.body_kept_on;
        RETURN NULL;
    END $$;
    CREATE TRIGGER inbox_event_takes_its_body_along AFTER DELETE ON channels_inboxevent
        REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION channels_forget_bodies();
    CREATE TRIGGER inbox_is_emptied_with_its_bodies AFTER TRUNCATE ON channels_inboxevent
        FOR EACH STATEMENT EXECUTE FUNCTION channels_forget_bodies();
"""
NO_TABLE = """
    DROP TRIGGER inbox_event_takes_its_body_along ON channels_inboxevent;
    DROP TRIGGER inbox_is_emptied_with_its_bodies ON channels_inboxevent;
    DROP FUNCTION channels_forget_bodies;
    DROP TABLE channels_inboxbody;
"""


def make_room(apps, schema_editor):
    today = datetime.now(UTC).date()
    for day in (today + timedelta(days=ahead) for ahead in range(DAYS)):
        schema_editor.execute(
            f"CREATE TABLE channels_inboxbody_{day:%Y%m%d} PARTITION OF channels_inboxbody"
            f" FOR VALUES FROM ('{day}') TO ('{day + timedelta(days=1)}')"
        )


def move_bodies(apps, schema_editor):
    """Seal what was only compressed. Bodies older than they are kept stay behind."""
    from synctec.lib.compression import decompress

    events = apps.get_model("channels", "InboxEvent").objects
    oldest = datetime.now(UTC) - timedelta(days=KEPT_DAYS)
    last = 0
    while batch := list(
        events.filter(pk__gt=last).order_by("pk").values_list("pk", "merchant_id", "channel_id", "received_at", "body")[:BATCH]
    ):
        last = batch[-1][0]
        with schema_editor.connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO channels_inboxbody (merchant_id, event_id, kept_on, sealed) VALUES (%s, %s, %s, %s)",
                [
                    (
                        merchant_id,
                        event_id,
                        received_at.astimezone(UTC).date(),
                        bodies.seal(decompress(bytes(body)), channel_id=channel_id),
                    )
                    for event_id, merchant_id, channel_id, received_at, body in batch
                    if received_at >= oldest
                ],
            )


class Migration(migrations.Migration):
    dependencies = [
        ("channels", "0013_samples_by_store_clock"),
    ]

    operations = [
        migrations.AddField("inboxevent", "body_kept_on", models.DateField(editable=False, null=True)),
        migrations.RunSQL(
            "UPDATE channels_inboxevent SET body_kept_on = (received_at AT TIME ZONE 'UTC')::date", migrations.RunSQL.noop
        ),
        migrations.AlterField("inboxevent", "body_kept_on", models.DateField(editable=False)),
        migrations.RunSQL(TABLE, NO_TABLE),
        migrations.RunPython(make_room, migrations.RunPython.noop),
        migrations.RunPython(move_bodies),
        migrations.RemoveField("inboxevent", "body"),
    ]

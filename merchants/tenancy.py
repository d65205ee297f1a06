"""Keeping tenants apart in the database itself.

Every row carries its merchant, and a reference between two rows of a tenant is a *composite* foreign key
`(merchant_id, sku_id) -> sku (merchant_id, id)`: PostgreSQL then refuses a row of one merchant that points at
a row of another, whatever the code above it does. Where such a key is never null it proves that the merchant exists, too:
tables that grow with every event leave the plain foreign key to the merchant out, since each key costs a look-up per row.
"""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db import migrations, models
from django.db.backends.ddl_references import Statement


class CompositeKey(models.BaseConstraint):
    """A foreign key over several columns: `columns` of this table refer to the same columns of `parent`'s table.

    Django makes single-column foreign keys only. The fields are declared with `db_constraint=False`, since this
    constraint already proves that the row exists. `parent` is a model's label; its columns carry a unique constraint.
    """

    def __init__(self, *, columns: tuple[str, ...], parent: str, parent_columns: tuple[str, ...], name: str) -> None:
        super().__init__(name=name)
        self.columns = columns
        self.parent = parent
        self.parent_columns = parent_columns

    def _parent_label(self, model: type[models.Model]) -> str:
        return self.parent

    def _sql(self, model: type[models.Model], schema_editor: Any) -> str:
        quote = schema_editor.quote_name
        parent = model._meta.apps.get_model(self._parent_label(model))
        columns = ", ".join(quote(_column(model, field)) for field in self.columns)
        parent_columns = ", ".join(quote(_column(parent, field)) for field in self.parent_columns)
        return (
            f"ALTER TABLE {quote(model._meta.db_table)} ADD CONSTRAINT {quote(self.name)} FOREIGN KEY ({columns}) "
            f"REFERENCES {quote(parent._meta.db_table)} ({parent_columns}) DEFERRABLE INITIALLY DEFERRED"
        )

    def constraint_sql(self, model: Any, schema_editor: Any) -> str:
        # The table and its parent's unique key must exist first: run at the end of the migration.
        schema_editor.deferred_sql.append(self._sql(model, schema_editor))
        return ""

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        return Statement("%(sql)s", sql=self._sql(model, schema_editor))

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        quote = schema_editor.quote_name
        return Statement(
            "ALTER TABLE %(table)s DROP CONSTRAINT %(name)s",
            table=quote(model._meta.db_table),
            name=quote(self.name),
        )

    def validate(self, model: Any, instance: Any, exclude: Any = None, using: str = "default") -> None:
        """Nothing to say before the database does."""

    def deconstruct(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        path = f"{type(self).__module__}.{type(self).__qualname__}"
        arguments = {
            "columns": self.columns,
            "parent": self.parent,
            "parent_columns": self.parent_columns,
            "name": self.name,
        }
        return path, (), arguments

    def __eq__(self, other: object) -> bool:
        if isinstance(other, CompositeKey):
            return self.deconstruct() == other.deconstruct()
        return NotImplemented

    def __hash__(self) -> int:
        return hash((type(self), self.columns, self.parent, self.parent_columns, self.name))


def _column(model: type[models.Model], field_name: str) -> str:
    field = model._meta.get_field(field_name)
    assert isinstance(field, models.Field)
    return str(field.column)


class SameMerchant(CompositeKey):
    """The row that `field` refers to exists and has the same merchant as this row.

    The referenced model carries `tenant_identity()`.
    """

    def __init__(self, *, field: str, name: str) -> None:
        super().__init__(columns=("merchant", field), parent="", parent_columns=("merchant", "id"), name=name)
        self.field = field

    def _parent_label(self, model: type[models.Model]) -> str:
        parent = model._meta.get_field(self.field).related_model
        assert isinstance(parent, type)
        return parent._meta.label

    def validate(self, model: Any, instance: Any, exclude: Any = None, using: str = "default") -> None:
        """Say in a form what the database would refuse at commit.

        Raises:
            ValidationError: the referenced row belongs to another merchant.
        """
        if exclude and (self.field in exclude or "merchant" in exclude):
            return
        related = getattr(instance, self.field, None)
        if related is not None and related.merchant_id != instance.merchant_id:
            name = related._meta.verbose_name
            raise ValidationError({self.field: f"This {name} belongs to another merchant. Choose one of your own."})

    def deconstruct(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        path, _, _ = super().deconstruct()
        return path, (), {"field": self.field, "name": self.name}


def tenant_identity(table: str) -> models.UniqueConstraint:
    """The key that composite foreign keys of other tables refer to."""
    return models.UniqueConstraint(fields=["merchant", "id"], name=f"{table}_tenant_identity")


def in_choices(name: str, field: str, choices: type[models.TextChoices]) -> models.CheckConstraint:
    """A check that the database, too, knows the values an enumeration allows."""
    return models.CheckConstraint(name=name, condition=models.Q(**{f"{field}__in": choices.values}))


def append_only(table: str, *, name: str) -> migrations.RunSQL:
    """A trigger by which the database refuses to change or delete rows of `table`: its history is written once."""
    return migrations.RunSQL(
        sql=f"""
            CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                RAISE EXCEPTION '{table} is append-only: % refused', TG_OP USING ERRCODE = 'restrict_violation';
            END $$;
            CREATE TRIGGER {name} BEFORE UPDATE OR DELETE ON {table}
                FOR EACH ROW EXECUTE FUNCTION {name}();
        """,
        reverse_sql=f"DROP TRIGGER {name} ON {table}; DROP FUNCTION {name}();",
    )

"""Runs migrations on the connection that ``app.schema`` hands over."""

from alembic import context

from app.asgi import MODULES  # noqa: F401 - importing the modules declares their tables
from app.kernel.db import Table, UtcDateTime


def render_item(kind: str, item: object, _: object) -> str | bool:
    """Write our timestamps down as what they are in the database."""
    is_timestamp = kind == "type" and isinstance(item, UtcDateTime)
    return "sa.DateTime(timezone=True)" if is_timestamp else False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Table.metadata,
    transaction_per_migration=True,
    transactional_ddl=True,
    render_as_batch=True,
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()

"""Alembic's entry: it runs on the connection that `payfirst.store.migrate` hands over."""

from alembic import context
from sqlalchemy.engine import Connection


def run(connection: Connection) -> None:
    context.configure(connection=connection, version_table="payfirst_version")
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])

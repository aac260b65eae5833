"""Alembic's entry: it runs on the connection that `payfirst.store.alembic_run` hands over."""

from alembic import context
from sqlalchemy.engine import Connection

from payfirst.store.alembic_run import VERSION_TABLE


def run(connection: Connection) -> None:
    context.configure(connection=connection, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])

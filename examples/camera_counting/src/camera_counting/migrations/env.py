"""Runs the migrations on the connection that camera_counting.schema opened."""

from alembic import context
from sqlalchemy import NullPool, create_engine, text

# Any number: two processes that migrate at once must only agree on it.
LOCK = 7_302_114

opened = context.config.attributes["connection"]
engine = create_engine("postgresql+psycopg://", creator=lambda: opened, poolclass=NullPool)
with engine.connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        context.run_migrations()

"""What Alembic runs for a migration: on the connection, and in the transaction, that `migrate.py` hands it."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
context.run_migrations()

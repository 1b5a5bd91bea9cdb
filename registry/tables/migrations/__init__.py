"""Alembic: one file a step of the schema."""

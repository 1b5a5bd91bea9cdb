"""Who made outputs that were merely found is not known, and neither is the code."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MAKER = ("platform_version", "environment_sha256", "who", "host")
CODE = ("code_commit", "code_dirty", "project_commit", "project_dirty", "lock_sha256", "flow_run")


def upgrade() -> None:
    with op.batch_alter_table("runs", schema=None) as batch_op:
        for name in MAKER:
            batch_op.alter_column(name, existing_type=sa.String(), nullable=True)
    # what was written before told the circumstances of the finding, as if they were those of the making
    runs = sa.table("runs", sa.column("status"), *(sa.column(name) for name in (*MAKER, *CODE)))
    op.execute(runs.update().where(runs.c.status == "found").values(dict.fromkeys((*MAKER, *CODE))))


def downgrade() -> None:
    runs = sa.table("runs", *(sa.column(name) for name in MAKER))
    for name in MAKER:
        op.execute(runs.update().where(runs.c[name].is_(None)).values({name: "unknown"}))
    with op.batch_alter_table("runs", schema=None) as batch_op:
        for name in MAKER:
            batch_op.alter_column(name, existing_type=sa.String(), nullable=False)

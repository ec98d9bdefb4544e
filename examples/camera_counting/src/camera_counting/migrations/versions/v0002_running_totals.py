"""Running totals on each camera, so that reading them does not scan all frames."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE cameras
            ADD COLUMN frames bigint NOT NULL DEFAULT 0,
            ADD COLUMN people bigint NOT NULL DEFAULT 0,
            ADD COLUMN last_count integer,
            ADD COLUMN last_frame_at timestamptz
        """
    )
    op.execute(
        """
        UPDATE cameras SET
            frames = history.frames,
            people = history.people,
            last_count = history.last_count,
            last_frame_at = history.last_frame_at
        FROM (
            SELECT
                camera_id,
                count(*) AS frames,
                sum(people) AS people,
                (array_agg(people ORDER BY counted_at DESC))[1] AS last_count,
                max(counted_at) AS last_frame_at
            FROM frames GROUP BY camera_id
        ) AS history
        WHERE cameras.id = history.camera_id
        """
    )


def downgrade() -> None:
    op.execute(
        """
        ALTER TABLE cameras
            DROP COLUMN frames,
            DROP COLUMN people,
            DROP COLUMN last_count,
            DROP COLUMN last_frame_at
        """
    )

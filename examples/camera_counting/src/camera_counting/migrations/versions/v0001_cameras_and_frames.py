"""Cameras with their backgrounds, and one row for every counted frame."""

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE cameras (
            id text PRIMARY KEY,
            person_width integer NOT NULL CHECK (person_width > 0),
            person_height integer NOT NULL CHECK (person_height > 0),
            background bytea NOT NULL,
            digest text NOT NULL
        )
        """
    )
    # The primary key is what makes a frame that is sent again count once.
    op.execute(
        """
        CREATE TABLE frames (
            camera_id text NOT NULL REFERENCES cameras ON DELETE CASCADE,
            frame_id text NOT NULL,
            people integer NOT NULL CHECK (people >= 0),
            counted_at timestamptz NOT NULL DEFAULT now(),
            PRIMARY KEY (camera_id, frame_id)
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE frames")
    op.execute("DROP TABLE cameras")

"""Cameras, counted frames and totals, kept in PostgreSQL."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from psycopg import Connection
from psycopg.rows import TupleRow, class_row
from psycopg_pool import ConnectionPool

from camera_counting.camera import Camera, PersonSize

Pool: TypeAlias = ConnectionPool[Connection[TupleRow]]


class UnknownCameraError(LookupError):
    """No background was ever sent for this camera."""

    def __init__(self, camera_id: str) -> None:
        super().__init__(f"camera {camera_id!r} has no background yet")


@dataclass(frozen=True)
class Recorded:
    """The effect of one frame on its camera's total."""

    total: int
    repeated: bool
    """The frame was counted before, and this time it changed nothing."""


@dataclass(frozen=True)
class CameraTotal:
    """What one camera has counted so far."""

    id: str
    frames: int
    total: int
    """Sum of the people in all frames; somebody seen in two frames counts twice."""
    last_count: int | None
    last_frame_at: datetime | None


@dataclass(frozen=True)
class Counts:
    """Reads and writes the tables of the service."""

    pool: Pool

    def register(self, camera: Camera) -> None:
        """Add the camera, or replace its calibration and background; totals stay."""
        with self.pool.connection() as connection:
            connection.execute(
                """
                INSERT INTO cameras (id, person_width, person_height, background, digest)
                VALUES (%s, %s, %s, %s, %s)
                ON CONFLICT (id) DO UPDATE SET
                    person_width = excluded.person_width,
                    person_height = excluded.person_height,
                    background = excluded.background,
                    digest = excluded.digest
                """,
                (
                    camera.id,
                    camera.person.width,
                    camera.person.height,
                    camera.background,
                    camera.digest,
                ),
            )

    def digest(self, camera_id: str) -> str:
        """Digest of the camera as it is stored now."""
        with self.pool.connection() as connection:
            row = connection.execute(
                "SELECT digest FROM cameras WHERE id = %s", (camera_id,)
            ).fetchone()
        if row is None:
            raise UnknownCameraError(camera_id)
        return str(row[0])

    def camera(self, camera_id: str) -> Camera:
        """The camera with its background."""
        with self.pool.connection() as connection:
            row = connection.execute(
                "SELECT person_width, person_height, background FROM cameras WHERE id = %s",
                (camera_id,),
            ).fetchone()
        if row is None:
            raise UnknownCameraError(camera_id)
        width, height, background = row
        return Camera(camera_id, PersonSize(width, height), background)

    def record(self, camera_id: str, frame_id: str, people: int) -> Recorded:
        """Add a frame to the camera's total, unless this frame id is already in it."""
        with self.pool.connection() as connection:
            # One statement: a second sender of the same frame waits on the primary key
            # until the first has committed, then inserts and adds nothing.
            row = connection.execute(
                """
                WITH counted AS (
                    INSERT INTO frames (camera_id, frame_id, people)
                    SELECT id, %(frame)s, %(people)s FROM cameras WHERE id = %(camera)s
                    ON CONFLICT DO NOTHING
                    RETURNING camera_id, counted_at
                )
                UPDATE cameras SET
                    frames = frames + 1,
                    people = people + %(people)s,
                    last_count = %(people)s,
                    last_frame_at = counted.counted_at
                FROM counted WHERE id = counted.camera_id
                RETURNING people
                """,
                {"camera": camera_id, "frame": frame_id, "people": people},
            ).fetchone()
            if row is not None:
                return Recorded(total=row[0], repeated=False)
            row = connection.execute(
                "SELECT people FROM cameras WHERE id = %s", (camera_id,)
            ).fetchone()
        if row is None:
            raise UnknownCameraError(camera_id)
        return Recorded(total=row[0], repeated=True)

    def totals(self) -> list[CameraTotal]:
        """All cameras by id."""
        with (
            self.pool.connection() as connection,
            connection.cursor(row_factory=class_row(CameraTotal)) as cursor,
        ):
            return cursor.execute(
                """
                SELECT id, frames, people AS total, last_count, last_frame_at
                FROM cameras ORDER BY id
                """
            ).fetchall()

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg_pool import ConnectionPool

from camera_counting.camera import Camera, PersonSize
from camera_counting.counts import Counts, Pool, Recorded, UnknownCameraError

pytestmark = pytest.mark.integration

GATE = Camera("gate", PersonSize(30, 92), b"first view")


@pytest.fixture
def counts(database: str) -> Iterator[Counts]:
    pool: Pool = ConnectionPool(database, min_size=1, max_size=8, open=True)
    with pool:
        counts = Counts(pool)
        counts.register(GATE)
        yield counts


def test_a_camera_is_read_back_as_it_was_stored(counts: Counts) -> None:
    assert counts.camera("gate") == GATE
    assert counts.digest("gate") == GATE.digest


def test_frames_add_up(counts: Counts) -> None:
    assert counts.record("gate", "1", 3) == Recorded(total=3, repeated=False)
    assert counts.record("gate", "2", 4) == Recorded(total=7, repeated=False)
    (total,) = counts.totals()
    assert (total.id, total.frames, total.total, total.last_count) == ("gate", 2, 7, 4)


def test_a_frame_sent_again_does_not_count_again(counts: Counts) -> None:
    counts.record("gate", "1", 3)
    assert counts.record("gate", "1", 3) == Recorded(total=3, repeated=True)
    assert counts.totals()[0].frames == 1


def test_a_frame_sent_many_times_at_once_counts_once(counts: Counts) -> None:
    with ThreadPoolExecutor(8) as pool:
        posts = [pool.submit(counts.record, "gate", "1", 5) for _ in range(32)]
    assert [post.result().repeated for post in posts].count(False) == 1
    assert counts.totals()[0].total == 5


def test_frames_sent_at_once_all_count(counts: Counts) -> None:
    with ThreadPoolExecutor(8) as pool:
        posts = [pool.submit(counts.record, "gate", str(frame), 2) for frame in range(64)]
    assert {post.result().repeated for post in posts} == {False}
    assert counts.totals()[0].total == 128


def test_the_same_frame_id_of_two_cameras_names_two_frames(counts: Counts) -> None:
    counts.register(Camera("door", PersonSize(30, 92), b"view"))
    counts.record("gate", "1", 1)
    assert counts.record("door", "1", 2) == Recorded(total=2, repeated=False)
    assert [total.id for total in counts.totals()] == ["door", "gate"]


def test_a_new_background_keeps_the_totals(counts: Counts) -> None:
    counts.record("gate", "1", 3)
    counts.register(Camera("gate", PersonSize(40, 120), b"second view"))
    assert counts.camera("gate").background == b"second view"
    assert counts.totals()[0].total == 3


def test_an_unknown_camera_is_an_error(counts: Counts) -> None:
    with pytest.raises(UnknownCameraError, match="'attic' has no background yet"):
        counts.digest("attic")
    with pytest.raises(UnknownCameraError):
        counts.camera("attic")
    with pytest.raises(UnknownCameraError):
        counts.record("attic", "1", 1)

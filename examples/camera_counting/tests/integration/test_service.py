import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg
import pytest

from camera_counting import schema
from scene import PERSON_HEIGHT, PERSON_WIDTH, Figure, crowd, frame, jpeg
from service import serving

pytestmark = pytest.mark.integration

SIZE = {"person_width": PERSON_WIDTH, "person_height": PERSON_HEIGHT}
EMPTY = jpeg(frame(seed=99))
THREE = jpeg(frame(*crowd(3, seed=1)))


@pytest.fixture
def client(database: str) -> Iterator[httpx.Client]:
    with serving(database) as client:
        assert client.put("/cameras/gate/background", params=SIZE, content=EMPTY).is_success
        yield client


def test_people_in_a_frame_are_counted_and_added_to_the_total(client: httpx.Client) -> None:
    first = client.post("/cameras/gate/frames", content=THREE).json()
    assert first["count"] == len(first["boxes"]) == first["total"] == 3
    assert client.post("/cameras/gate/frames", content=EMPTY).json()["total"] == 3
    assert client.post("/cameras/gate/frames", content=THREE).json()["total"] == 6
    (camera,) = client.get("/cameras").json()["cameras"]
    assert (camera["id"], camera["frames"], camera["total"]) == ("gate", 3, 6)


def test_a_frame_sent_again_under_its_id_counts_once(client: httpx.Client) -> None:
    answers = [
        client.post("/cameras/gate/frames", content=THREE, headers={"X-Frame-Id": "17"}).json()
        for _ in range(2)
    ]
    assert [answer["repeated"] for answer in answers] == [False, True]
    assert [answer["total"] for answer in answers] == [3, 3]
    assert answers[1]["boxes"] == answers[0]["boxes"]
    assert 'camera_counting_people_total{camera="gate"} 3.0' in client.get("/metrics").text


def test_a_frame_of_an_unknown_camera_is_refused(client: httpx.Client) -> None:
    response = client.post("/cameras/attic/frames", content=THREE)
    assert response.status_code == 404
    assert "has no background yet" in response.json()["error"]


def test_a_frame_of_another_size_is_refused(client: httpx.Client) -> None:
    response = client.post("/cameras/gate/frames", content=jpeg(frame()[:400]))
    assert response.status_code == 422
    assert client.get("/cameras").json()["cameras"][0]["frames"] == 0


def test_a_new_background_counts_from_the_next_frame_on_in_every_process(
    client: httpx.Client, database: str
) -> None:
    assert client.post("/cameras/gate/frames", content=THREE).json()["count"] == 3
    with serving(database) as other:
        assert other.post("/cameras/gate/frames", content=THREE).json()["count"] == 3
        client.put("/cameras/gate/background", params=SIZE, content=THREE)
        assert other.post("/cameras/gate/frames", content=THREE).json()["count"] == 0


def test_metrics_tell_frames_people_and_latency(client: httpx.Client) -> None:
    client.post("/cameras/gate/frames", content=THREE)
    response = client.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'camera_counting_frames_total{camera="gate"} 1.0' in response.text
    assert 'camera_counting_people_total{camera="gate"} 3.0' in response.text
    assert "camera_counting_frame_seconds_count 1.0" in response.text


def test_it_stays_responsive_while_frames_are_counted(client: httpx.Client) -> None:
    crowded = jpeg(frame(*crowd(8, seed=5), Figure(30, 400)))
    with ThreadPoolExecutor(8) as pool:
        posts = [
            pool.submit(client.post, "/cameras/gate/frames", content=crowded) for _ in range(40)
        ]
        slowest = 0.0
        while not all(post.done() for post in posts):
            start = time.perf_counter()
            assert client.get("/healthz").is_success
            slowest = max(slowest, time.perf_counter() - start)
    assert all(post.result().is_success for post in posts)
    assert slowest < 1


def test_it_is_ready_with_the_current_schema(client: httpx.Client) -> None:
    response = client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


def test_it_is_not_ready_while_the_schema_is_behind(client: httpx.Client, database: str) -> None:
    schema.downgrade(database, "0001")
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reason"] == "database schema is at 0001, revision 0002 is needed"
    schema.downgrade(database, "base")
    assert client.get("/readyz").json()["reason"].startswith("database schema is at base")
    schema.upgrade(database)
    assert client.get("/readyz").status_code == 200


def test_it_is_not_ready_on_an_empty_database(empty_database: str) -> None:
    with serving(empty_database) as client:
        response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reason"].startswith("database schema is empty")


def test_it_stays_ready_when_a_later_version_has_migrated(
    client: httpx.Client, database: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    assert client.get("/readyz").status_code == 200


def test_it_recovers_when_the_database_drops_its_connections(
    client: httpx.Client, database: str
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
            """
        )
    assert client.post("/cameras/gate/frames", content=THREE).json()["count"] == 3

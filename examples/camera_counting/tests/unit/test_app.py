"""What the application answers by itself, and how it behaves without a database."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import httpx
import pytest

from camera_counting.frame import MAX_BYTES
from scene import PERSON_HEIGHT, PERSON_WIDTH, background, jpeg
from service import serving

pytestmark = pytest.mark.unit

SIZE = {"person_width": PERSON_WIDTH, "person_height": PERSON_HEIGHT}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    # Nothing listens on port 1, so the connection is refused at once.
    with serving("postgresql://postgres@127.0.0.1:1/postgres") as client:
        yield client


def test_it_is_alive_without_a_database(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}


def test_it_is_not_ready_without_a_database_and_says_why(client: httpx.Client) -> None:
    response = client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["reason"].startswith("database: ")


def test_frames_and_totals_fail_with_503_without_a_database(client: httpx.Client) -> None:
    image = jpeg(background())
    with ThreadPoolExecutor(3) as pool:
        requests = [
            pool.submit(client.get, "/cameras"),
            pool.submit(client.post, "/cameras/gate/frames", content=image),
            pool.submit(client.put, "/cameras/gate/background", params=SIZE, content=image),
        ]
    for response in (request.result() for request in requests):
        assert response.status_code == 503
        assert response.json()["error"].startswith("database: ")


def test_the_version_names_the_commit(client: httpx.Client) -> None:
    expected = {"version": version("camera-counting"), "commit": "0123abc"}
    assert client.get("/version").json() == expected


def test_the_page_allows_nothing_but_its_own_assets(client: httpx.Client) -> None:
    response = client.get("/")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"
    assert client.get("/static/app.js").status_code == 200


@pytest.mark.parametrize("size", [{}, {"person_width": "30"}, SIZE | {"person_width": "-3"}])
def test_a_background_without_the_size_of_a_person_is_refused(
    client: httpx.Client, size: dict[str, str]
) -> None:
    response = client.put("/cameras/gate/background", params=size, content=b"")
    assert response.status_code == 422
    assert "must be a number of pixels" in response.json()["error"]


def test_a_background_that_is_no_image_is_refused(client: httpx.Client) -> None:
    response = client.put("/cameras/gate/background", params=SIZE, content=b"no image")
    assert response.status_code == 422
    assert response.json() == {"error": "image: image is neither JPEG nor PNG"}


def test_a_camera_id_that_does_not_fit_is_refused(client: httpx.Client) -> None:
    for response in (
        client.put("/cameras/Gate!/background", params=SIZE, content=b""),
        client.post("/cameras/%00/frames", content=b""),
    ):
        assert response.status_code == 422
        assert response.json()["error"].startswith("camera: a camera id is")


def test_an_upload_beyond_the_limit_is_refused(client: httpx.Client) -> None:
    response = client.post("/cameras/gate/frames", content=bytes(MAX_BYTES + 1))
    assert response.status_code == 413


def test_a_frame_id_beyond_the_limit_is_refused(client: httpx.Client) -> None:
    response = client.post("/cameras/gate/frames", headers={"X-Frame-Id": "x" * 129})
    assert response.status_code == 422


def test_refusals_are_counted_by_reason(client: httpx.Client) -> None:
    client.put("/cameras/gate/background", params=SIZE, content=b"no image")
    text = client.get("/metrics").text
    assert 'camera_counting_errors_total{reason="image"}' in text

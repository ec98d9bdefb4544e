"""The running service, seen only through HTTP."""

import re
import uuid

import httpx
import pytest

from scene import PERSON_HEIGHT, PERSON_WIDTH, Figure, crowd, frame, jpeg, png

pytestmark = pytest.mark.acceptance

SIZE = {"person_width": PERSON_WIDTH, "person_height": PERSON_HEIGHT}


@pytest.fixture
def camera(client: httpx.Client) -> str:
    """Path of a camera that nobody else uses."""
    path = f"/cameras/acceptance-{uuid.uuid4().hex[:12]}"
    response = client.put(f"{path}/background", params=SIZE, content=jpeg(frame(seed=99)))
    assert response.status_code == 204
    return path


def test_the_service_is_alive_and_ready(client: httpx.Client) -> None:
    assert client.get("/healthz").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_the_service_names_its_version_and_commit(client: httpx.Client) -> None:
    answer = client.get("/version").json()
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", answer["version"])
    assert answer["commit"]


@pytest.mark.parametrize("people", [0, 1, 4, 8])
def test_people_in_a_frame_are_counted(client: httpx.Client, camera: str, people: int) -> None:
    answer = client.post(f"{camera}/frames", content=jpeg(frame(*crowd(people, seed=2)))).json()
    assert answer["count"] == len(answer["boxes"]) == people


def test_a_day_of_frames_is_counted_through_light_and_shadow(
    client: httpx.Client, camera: str
) -> None:
    expected = 0
    for hour in range(8):
        light = 0.6 + 0.1 * hour
        figures = [*crowd(hour % 4, seed=hour), Figure(600, 200, clothes=hour, shadow=0.3)]
        expected += len(figures)
        pixels = frame(*figures, gain=(light * 1.05, light, light * 0.93), seed=hour)
        answer = client.post(f"{camera}/frames", content=jpeg(pixels)).json()
        assert answer["total"] == expected
    cameras = {each["id"]: each for each in client.get("/cameras").json()["cameras"]}
    total = cameras[camera.rsplit("/", 1)[1]]
    assert (total["frames"], total["total"]) == (8, expected)
    assert total["last_frame_at"] is not None


def test_a_frame_sent_again_counts_once(client: httpx.Client, camera: str) -> None:
    image, headers = png(frame(*crowd(2, seed=3))), {"X-Frame-Id": "frame-1"}
    first = client.post(f"{camera}/frames", content=image, headers=headers).json()
    again = client.post(f"{camera}/frames", content=image, headers=headers).json()
    assert (first["total"], first["repeated"]) == (2, False)
    assert (again["total"], again["repeated"]) == (2, True)


def test_mistakes_are_answered_with_a_reason(client: httpx.Client, camera: str) -> None:
    for path, content, status in (
        (f"{camera}/frames", b"no image", 422),
        (f"{camera}/frames", jpeg(frame()[:100]), 422),
        (f"/cameras/never-seen-{uuid.uuid4().hex[:8]}/frames", jpeg(frame()), 404),
    ):
        response = client.post(path, content=content)
        assert response.status_code == status
        assert response.json()["error"]


def test_metrics_follow_the_frames(client: httpx.Client, camera: str) -> None:
    client.post(f"{camera}/frames", content=jpeg(frame(*crowd(3, seed=4))))
    name = camera.rsplit("/", 1)[1]
    assert f'camera_counting_people_total{{camera="{name}"}} 3.0' in client.get("/metrics").text


def test_the_live_page_and_all_its_assets_load(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    assets = re.findall(r"""(?:src|href)=["']?(/[^"'> ]+)""", page.text)
    assert len(assets) >= 3
    for asset in assets:
        assert client.get(asset).status_code == 200

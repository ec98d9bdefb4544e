import pytest

from camera_counting.camera import Camera, CameraError, PersonSize

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("camera_id", ["gate", "0", "north-door_2", "a" * 63])
def test_plain_ids_are_accepted(camera_id: str) -> None:
    assert Camera(camera_id, PersonSize(30, 90), b"").id == camera_id


@pytest.mark.parametrize("camera_id", ["", "-gate", "Gate", "a/b", "gate\n", "a" * 64, "größe"])
def test_ids_that_do_not_fit_into_a_url_are_refused(camera_id: str) -> None:
    with pytest.raises(CameraError, match="camera id"):
        Camera(camera_id, PersonSize(30, 90), b"")


@pytest.mark.parametrize("size", [(7, 90), (30, 15), (0, 0)])
def test_people_of_a_few_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(CameraError, match="too small"):
        PersonSize(*size)


def test_digest_follows_the_background_and_the_calibration() -> None:
    cameras = [
        Camera("a", PersonSize(30, 90), b"x"),
        Camera("a", PersonSize(31, 90), b"x"),
        Camera("a", PersonSize(30, 90), b"y"),
    ]
    assert len({camera.digest for camera in cameras}) == 3
    assert cameras[0].digest == Camera("b", PersonSize(30, 90), b"x").digest

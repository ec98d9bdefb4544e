import numpy as np
import pytest

from camera_counting.camera import Camera, CameraError, PersonSize
from camera_counting.detect import Box, Detector
from camera_counting.frame import ImageError, decode
from scene import (
    HEIGHT,
    PERSON_HEIGHT,
    PERSON_WIDTH,
    WIDTH,
    Figure,
    Pixels,
    background,
    crowd,
    frame,
    jpeg,
    png,
)

pytestmark = pytest.mark.unit

PERSON = PersonSize(PERSON_WIDTH, PERSON_HEIGHT)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.for_camera(Camera("square", PERSON, jpeg(frame(seed=99))))


def seen(detector: Detector, pixels: Pixels, quality: int = 85) -> list[Box]:
    return detector.detect(decode(jpeg(pixels, quality)))


def overlap(box: Box, figure: Figure) -> float:
    """Intersection over union of a box and the place where the figure was drawn."""
    left, top = figure.x - PERSON_WIDTH // 2, figure.y - PERSON_HEIGHT
    width = min(box.x + box.width, left + PERSON_WIDTH) - max(box.x, left)
    height = min(box.y + box.height, top + PERSON_HEIGHT) - max(box.y, top)
    shared = max(0, width) * max(0, height)
    return shared / (box.width * box.height + PERSON_WIDTH * PERSON_HEIGHT - shared)


@pytest.mark.parametrize("seed", range(5))
def test_an_empty_view_has_no_people(detector: Detector, seed: int) -> None:
    assert seen(detector, frame(seed=seed)) == []


@pytest.mark.parametrize("people", range(1, 9))
def test_every_person_gets_a_box_where_they_stand(detector: Detector, people: int) -> None:
    for seed in range(2):
        figures = sorted(crowd(people, seed), key=lambda figure: (figure.x, figure.y))
        boxes = seen(detector, frame(*figures, seed=seed))
        assert len(boxes) == people
        for figure in figures:
            assert max(overlap(box, figure) for box in boxes) > 0.6


def test_boxes_lie_inside_the_frame_and_scores_between_0_and_1(detector: Detector) -> None:
    at_the_edges = [Figure(12, 200), Figure(WIDTH - 10, 300), Figure(300, HEIGHT + 20)]
    boxes = seen(detector, frame(*at_the_edges))
    assert len(boxes) == 3
    for box in boxes:
        assert 0 <= box.x < box.x + box.width <= WIDTH
        assert 0 <= box.y < box.y + box.height <= HEIGHT
        assert 0 < box.score <= 1


@pytest.mark.parametrize(
    "gain",
    [(0.55, 0.55, 0.55), (0.8, 0.8, 0.8), (1.35, 1.35, 1.35), (1.1, 1.0, 0.85), (0.9, 1.0, 1.2)],
)
def test_exposure_and_white_balance_may_drift(
    detector: Detector, gain: tuple[float, float, float]
) -> None:
    assert len(seen(detector, frame(*crowd(5, seed=4), gain=gain))) == 5
    assert seen(detector, frame(gain=gain)) == []


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
def test_jpeg_artifacts_are_not_people(detector: Detector, quality: int) -> None:
    assert len(seen(detector, frame(*crowd(6, seed=2)), quality)) == 6


@pytest.mark.parametrize("noise", [0.0, 6.0, 15.0])
def test_sensor_noise_is_not_people(detector: Detector, noise: float) -> None:
    assert len(seen(detector, frame(*crowd(6, seed=3), noise=noise))) == 6


@pytest.mark.parametrize("darkness", [0.15, 0.2, 0.3, 0.4])
def test_a_shadow_belongs_to_nobody(detector: Detector, darkness: float) -> None:
    for clothes in range(5):
        figure = Figure(250, 320, clothes=clothes, shadow=darkness)
        (box,) = seen(detector, frame(figure, seed=clothes))
        assert overlap(box, figure) > 0.75


@pytest.mark.parametrize("distance", [26, 30, 38])
@pytest.mark.parametrize("people", [2, 3, 4])
def test_people_side_by_side_are_counted_one_by_one(
    detector: Detector, people: int, distance: int
) -> None:
    group = [Figure(200 + distance * each, 300, 0.4, clothes=each) for each in range(people)]
    assert len(seen(detector, frame(*group))) == people


@pytest.mark.parametrize("aside", [0, 12, 24])
def test_people_behind_one_another_are_counted_one_by_one(detector: Detector, aside: int) -> None:
    pair = [Figure(300, 250, clothes=1), Figure(300 + aside, 250 + PERSON_HEIGHT - 6, clothes=4)]
    assert len(seen(detector, frame(*pair))) == 2


def test_changes_of_another_size_or_shape_are_not_people(detector: Detector) -> None:
    pixels = frame()
    pixels[300:320, 100:110] = 250  # a bag
    pixels[200:212, 200:330] = 20  # a bar
    pixels[400:404, :] = 250  # a line across the view
    assert seen(detector, pixels) == []


def test_any_pattern_of_changes_is_handled(detector: Detector) -> None:
    random, empty = np.random.default_rng(8), frame()
    for cell in (4, 12, 30, 80):
        for density in (0.1, 0.3, 0.45):
            cells = random.random((HEIGHT // cell + 1, WIDTH // cell + 1)) < density
            spots = np.kron(cells, np.ones((cell, cell), dtype=bool))[:HEIGHT, :WIDTH]
            for box in detector.detect(np.where(spots[:, :, np.newaxis], 255 - empty, empty)):
                assert box.x + box.width <= WIDTH
                assert box.y + box.height <= HEIGHT


def test_the_same_frame_gives_the_same_boxes(detector: Detector) -> None:
    pixels = frame(*crowd(4, seed=1))
    assert seen(detector, pixels) == seen(detector, pixels)


def test_boxes_keep_their_place_within_a_block_at_twice_the_resolution() -> None:
    def twice(pixels: Pixels) -> Pixels:
        return pixels.repeat(2, axis=0).repeat(2, axis=1)

    pixels = frame(*crowd(5, seed=6))
    large = Camera("large", PersonSize(2 * PERSON_WIDTH, 2 * PERSON_HEIGHT), png(twice(frame())))
    small = Detector.for_camera(Camera("small", PERSON, png(frame()))).detect(pixels)
    for box, twin in zip(small, Detector.for_camera(large).detect(twice(pixels)), strict=True):
        assert abs(2 * box.x - twin.x) <= 5
        assert abs(2 * box.y - twin.y) <= 5


def test_small_people_are_found_without_averaging() -> None:
    quarter = np.s_[::2, ::2]
    camera = Camera("far", PersonSize(PERSON_WIDTH // 2, PERSON_HEIGHT // 2), png(frame()[quarter]))
    pixels = frame(*crowd(5, seed=6))[quarter]
    assert len(Detector.for_camera(camera).detect(np.ascontiguousarray(pixels))) == 5


def test_a_frame_of_another_size_is_refused(detector: Detector) -> None:
    with pytest.raises(ImageError, match="frame is 640x400, the camera's background is 640x480"):
        detector.detect(frame()[:400])


def test_a_person_larger_than_the_view_is_refused() -> None:
    with pytest.raises(CameraError, match="does not fit"):
        Detector.for_camera(Camera("wrong", PersonSize(30, HEIGHT + 1), png(background())))

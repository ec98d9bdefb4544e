import numpy as np
import pytest

from camera_counting.regions import Labels, Mask, closed, dilate, erode, label, opened, window_mean

pytestmark = pytest.mark.unit


def mask(text: str) -> Mask:
    return np.array([[cell == "#" for cell in row] for row in text.split()])


def flooded(cells: Mask) -> Labels:
    """The plain way to label: flood fill from every pixel that has no number yet."""
    labels = np.zeros(cells.shape, dtype=np.intp)
    for seed in zip(*np.nonzero(cells), strict=True):
        if labels[seed]:
            continue
        number, open_cells = labels.max() + 1, [seed]
        while open_cells:
            y, x = open_cells.pop()
            inside = 0 <= y < cells.shape[0] and 0 <= x < cells.shape[1]
            if inside and cells[y, x] and not labels[y, x]:
                labels[y, x] = number
                open_cells += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


@pytest.mark.parametrize("density", [0.05, 0.3, 0.45, 0.6, 0.95])
@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (37, 53)])
def test_labels_are_those_of_a_flood_fill(density: float, shape: tuple[int, int]) -> None:
    for seed in range(5):
        cells = np.random.default_rng(seed).random(shape) < density
        labels, count = label(cells)
        assert np.array_equal(labels, flooded(cells))
        assert count == labels.max()


def test_a_spiral_is_one_component() -> None:
    cells = mask("######## .......# ######.# #....#.# #.##.#.# #.####.# #......# ########")
    assert label(cells)[1] == 1


def test_pixels_at_opposite_borders_do_not_touch() -> None:
    assert label(mask("..# #.. ..#"))[1] == 3


@pytest.mark.parametrize("filled", [False, True])
def test_a_uniform_mask_has_no_or_one_component(filled: bool) -> None:
    assert label(np.full((5, 4), filled))[1] == int(filled)


def test_window_mean_is_the_mean_of_each_window() -> None:
    values = np.random.default_rng(1).random((9, 12)).astype(np.float32)
    padded = np.pad(values, 2, mode="edge")
    expected = [[padded[y : y + 5, x : x + 5].mean() for x in range(12)] for y in range(9)]
    assert np.allclose(window_mean(values, 2), expected, atol=1e-6)


def test_dilation_grows_by_its_radius_in_each_direction() -> None:
    grown = dilate(mask("..... ..... ..#.. ..... ....."), 1, 2)
    assert np.array_equal(grown, mask("..... ##### ##### ##### ....."))


def test_erosion_spares_what_reaches_the_border() -> None:
    assert np.array_equal(erode(mask("##.. ##.. ...."), 1, 1), mask("#... .... ...."))


def test_opening_removes_a_line_and_keeps_a_block() -> None:
    assert np.array_equal(
        opened(mask("#....... #.###... #.###### #.###..."), 1, 1),
        mask("........ ..###... ..###... ..###..."),
    )


def test_closing_fills_a_gap_and_does_not_stretch_to_the_border() -> None:
    cells = mask("...... .##... ...... .##... ......")
    assert np.array_equal(closed(cells, 1, 1), mask("...... .##... .##... .##... ......"))

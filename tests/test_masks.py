import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask
from scipy import ndimage

from segagent import depth, masks
from segagent.masks import next_click
from segagent.types import Box, Click

CLICKER = Path(__file__).parent / "fixtures" / "clicker"
SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20))
MASKS = SHAPES.flatmap(lambda shape: arrays(bool, shape))


def load(name):
    data = np.load(CLICKER / name)
    return data, json.loads(str(data["cases"]))


def expected_click(is_positive, y, x):
    return Click(x, y, bool(is_positive))


# The simulated click ---------------------------------------------------------------------------------------------


def test_next_click_equals_every_recorded_single_click():
    data, cases = load("single.npz")
    for index, case in enumerate(cases):
        labels, mask = data[f"gt_{index:02d}"], data[f"pred_{index:02d}"] > 0
        clicked = [(x, y) for _, y, x in case["clicks"]]
        found = next_click(labels == 1, mask, clicked, labels == -1)
        # Where no error pixel is left the reference clicks negatively at (0, 0); its depth there is zero.
        if case["next"] == [0, 0, 0] and found is None:
            missing, surplus = masks.error_regions(labels == 1, mask, labels == -1)
            assert all((x, y) in clicked for y, x in np.argwhere(missing | surplus)), case["name"]
        else:
            assert found == expected_click(*case["next"]), case["name"]


def apply_disc(grid, click, radius, mask):
    """The recorded closed loop's stand-in for a segmenter (fixtures: parity README, section 1)."""
    rows, columns = np.ogrid[: grid.shape[0], : grid.shape[1]]
    squared = (rows - click.y) ** 2 + (columns - click.x) ** 2
    region = np.isin(grid, np.unique(grid[squared <= radius**2])) & (squared <= 4 * radius**2)
    return mask | region if click.is_positive else mask & ~region


def test_next_click_repeats_the_recorded_trajectories():
    data, cases = load("trajectories.npz")
    for index, case in enumerate(cases):
        labels, grid = data[f"gt_{index}"], data[f"grid_{index}"]
        mask, clicked = np.zeros(labels.shape, bool), []
        for number, (recorded, iou) in enumerate(zip(case["clicks"], case["ious"], strict=True)):
            click = next_click(labels == 1, mask, clicked, labels == -1)
            assert (click, len(clicked)) == (expected_click(*recorded[:3]), recorded[3])
            clicked.append((click.x, click.y))
            mask = apply_disc(grid, click, case["radius"], mask)
            packed = data[f"masks_{index}"][number]
            assert np.array_equal(mask, np.unpackbits(packed)[: mask.size].reshape(mask.shape).astype(bool))
            assert masks.iou(mask, labels == 1, labels == -1) == pytest.approx(iou, abs=1e-12)


def plain_next_click(target, mask, excluded=(), void=None):
    """The definition: two full distance transforms from SciPy's exact nearest outside pixels."""
    found = []
    for region in masks.error_regions(target, mask, void):
        padded = np.pad(region, 1)
        nearest = ndimage.distance_transform_edt(padded, return_distances=False, return_indices=True)
        depths = ((nearest - np.indices(padded.shape)) ** 2).sum(0)[1:-1, 1:-1]
        for x, y in excluded:
            depths[y, x] = 0
        row, column = np.unravel_index(depths.argmax(), depths.shape)
        found.append((int(depths[row, column]), int(column), int(row)))
    is_positive = found[0][0] > found[1][0]
    squared, x, y = found[0 if is_positive else 1]
    return Click(x, y, is_positive) if squared else None


def noise(random, height, width):
    return random.random((height, width)) < random.random()


def uniform(random, height, width):
    return np.full((height, width), random.random() < 0.6)


def rectangles(random, height, width):
    mask = np.zeros((height, width), bool)
    for _ in range(random.integers(1, 8)):
        y, x = random.integers(0, height), random.integers(0, width)
        mask[y : y + random.integers(1, height + 1), x : x + random.integers(1, width + 1)] ^= True
    return mask


def discs_of_many_sizes(random, height, width):
    mask = np.zeros((height, width), np.uint8)
    for _ in range(random.integers(1, 12)):
        centre = int(random.integers(width)), int(random.integers(height))
        radius = int(random.integers(1, max(2, min(height, width) // 2)))
        cv2.circle(mask, centre, radius, int(random.integers(2)), -1)
    return mask > 0


def threads(random, height, width):
    mask, thickness = np.zeros((height, width), np.uint8), int(random.integers(1, 70))
    for start in range(0, width + height, thickness + int(random.integers(1, 80))):
        cv2.line(mask, (start, 0), (start - height // 2, height), 1, thickness)
    return mask > 0


def blobs(random, height, width):
    smooth = cv2.GaussianBlur(random.standard_normal((height, width)), (0, 0), float(random.uniform(1, 40)))
    return smooth > np.quantile(smooth, random.random())


TEXTURES = [noise, uniform, rectangles, discs_of_many_sizes, threads, blobs]


@pytest.mark.parametrize("texture", TEXTURES)
@pytest.mark.parametrize("side", [12, 150, 420])
def test_next_click_equals_the_definition_on(texture, side):
    random = np.random.default_rng([side, TEXTURES.index(texture)])
    for _ in range({12: 60, 150: 25, 420: 8}[side]):
        height, width = random.integers(max(1, side // 4), side + 1, 2)
        target = texture(random, height, width)
        mask = TEXTURES[random.integers(len(TEXTURES))](random, height, width)
        void = noise(random, height, width) if random.random() < 0.25 else None
        excluded = [(int(random.integers(width)), int(random.integers(height))) for _ in range(random.integers(0, 4))]
        for _ in range(3):
            click = next_click(target, mask, excluded, void)
            assert click == plain_next_click(target, mask, excluded, void)
            if click is None:
                break
            excluded.append((click.x, click.y))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (97, 96), (500, 600), (70, 700), (700, 70)])
def test_next_click_on_a_region_that_is_the_whole_picture(shape):
    everything, nothing = np.ones(shape, bool), np.zeros(shape, bool)
    click = next_click(everything, nothing)
    assert click == plain_next_click(everything, nothing)
    assert next_click(nothing, everything) == Click(click.x, click.y, False)
    assert next_click(everything, everything) is None
    assert next_click(nothing, nothing) is None


def test_equal_depths_give_a_negative_click_and_the_first_pixel():
    for side in (40, 400):  # below and above the size where the fast ways begin
        target, mask = np.zeros((side, side), bool), np.zeros((side, side), bool)
        target[2:9, 20:27] = target[20:27, 2:9] = True
        assert next_click(target, mask) == Click(23, 5, True)
        mask[28:35, 28:35] = True
        assert next_click(target, mask) == Click(31, 31, False)


def test_a_clicked_pixel_is_never_chosen_again_but_is_no_background():
    target, mask = np.zeros((300, 300), bool), np.zeros((300, 300), bool)
    target[50:251, 60:261] = True
    assert next_click(target, mask) == Click(160, 150)
    # As background it would push the next click far away; depth 100 is shared by the four neighbours.
    assert next_click(target, mask, [(160, 150)]) == Click(159, 149)
    only = np.zeros((3, 3), bool)
    only[1, 1] = True
    assert next_click(only, mask[:3, :3], [(1, 1)]) is None
    assert next_click(only, mask[:3, :3], [(7, 7), (-1, -1)]) == Click(1, 1)


def test_many_clicked_pixels_in_every_candidate_block():
    target, mask = np.zeros((200, 200), bool), np.zeros((200, 200), bool)
    target[20:180, 20:180] = True
    excluded = [(x, y) for x in range(60, 140) for y in range(60, 140)]
    assert next_click(target, mask, excluded) == plain_next_click(target, mask, excluded)


def test_void_pixels_are_neither_clicked_nor_part_of_a_region():
    target, mask, void = (np.zeros((20, 20), bool) for _ in range(3))
    target[2:15, 2:15] = True
    void[2:10] = True
    assert next_click(target, mask, void=void) == plain_next_click(target, mask, void=void) == Click(4, 12)
    assert next_click(target, mask, void=~mask) is None


def test_next_click_takes_arrays_of_any_layout_and_leaves_them_alone():
    random = np.random.default_rng(5)
    target, mask, void = (blobs(random, 220, 330) for _ in range(3))
    want = plain_next_click(target, mask, (), void)
    layouts = [
        np.asfortranarray,
        lambda a: np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3],
        lambda a: a[::-1].copy()[::-1],
    ]
    for layout in layouts:
        given_arrays = layout(target), layout(mask), layout(void)
        copies = [array.copy() for array in given_arrays]
        for array in given_arrays:
            array.setflags(write=False)
        assert next_click(given_arrays[0], given_arrays[1], (), given_arrays[2]) == want
        assert all(np.array_equal(a, b) for a, b in zip(given_arrays, copies, strict=True))


def test_next_click_restores_the_callers_acceleration_switch():
    before = cv2.ipp.useIPP()
    next_click(np.ones((50, 50), bool), np.zeros((50, 50), bool))
    assert cv2.ipp.useIPP() == before


@given(MASKS)
def test_distances_are_the_rounded_roots_of_the_exact_squares(mask):
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded)
    want = [((outside - pixel) ** 2).sum(1).min() for pixel in np.argwhere(np.ones(padded.shape, bool))]
    roots = np.sqrt(np.reshape(want, padded.shape).astype(np.float32))
    assert np.array_equal(depth.distances(padded.view(np.uint8)), roots)


# Sums ------------------------------------------------------------------------------------------------------------


def test_iou_by_hand():
    mask = np.array([[1, 1, 0], [0, 0, 0]], bool)
    target = np.array([[0, 1, 1], [1, 0, 0]], bool)
    assert masks.iou(mask, target) == 1 / 4
    assert masks.iou(mask, target, np.array([[1, 0, 0], [1, 0, 0]], bool)) == 1 / 2
    assert masks.iou(mask, ~mask) == 0.0
    assert masks.iou(np.zeros((2, 3), bool), np.zeros((2, 3), bool)) == 1.0
    assert masks.iou(mask, target, np.ones((2, 3), bool)) == 1.0
    assert isinstance(masks.iou(mask, target), float)


@pytest.mark.parametrize("call", [masks.iou, masks.boundary_iou, masks.error_regions, next_click])
def test_a_wrong_dtype_or_shape_is_refused(call):
    good = np.zeros((4, 5), bool)
    with pytest.raises(ValueError, match=r"uint8 \[4, 5\]; masks are bool"):
        call(good.astype(np.uint8), good)
    with pytest.raises(ValueError, match=r"bool \[1, 4, 5\]"):
        call(good, good[None])
    with pytest.raises(ValueError, match=r"must cover one image"):
        call(good, np.zeros((5, 4), bool))
    with pytest.raises(ValueError, match=r"void is \[5, 4\]"):
        call(good, good, void=np.zeros((5, 4), bool))


def test_error_regions_by_hand():
    target, mask = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 1, 0]], bool)
    missing, surplus = masks.error_regions(target, mask)
    assert missing.tolist() == [[False, True, False, False]] and surplus.tolist() == [[False, False, True, False]]
    missing, surplus = masks.error_regions(target, mask, np.array([[0, 1, 0, 0]], bool))
    assert not missing.any() and surplus.sum() == 1


def test_boundary_is_the_inner_band_and_the_image_edge_counts():
    mask = np.ones((30, 40), bool)  # diagonal 50: a band of one pixel at ratio 0.02, of two at 0.04
    for ratio, width in ((0.001, 1), (0.02, 1), (0.04, 2)):
        want = mask.copy()
        want[width:-width, width:-width] = False
        assert np.array_equal(masks.boundary(mask, ratio), want)


def test_boundary_iou_by_hand():
    mask, target = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    mask[5:15, 5:15] = target[5:15, 6:16] = True
    # Outlines of two 10x10 squares, one pixel apart: 36 pixels each; 9 + 9 of the long sides are shared.
    assert masks.boundary_iou(mask, target) == 18 / (72 - 18)
    assert masks.boundary_iou(mask, mask) == 1.0
    assert masks.boundary_iou(mask, target, void=np.ones_like(mask)) == 1.0


def test_bounding_box_and_back():
    mask = np.zeros((10, 12), bool)
    assert masks.bounding_box(mask) is None
    mask[3, 4] = mask[7, 9] = True
    assert masks.bounding_box(mask) == Box(4, 3, 10, 8)
    assert masks.bounding_box(mask.T) == Box(3, 4, 8, 10)
    assert masks.bounding_box(masks.box_to_mask(Box(4, 3, 10, 8), 10, 12)) == Box(4, 3, 10, 8)
    assert masks.box_to_mask(Box(4, 3, 10, 8), 10, 12).sum() == 30
    assert masks.box_to_mask(Box(-5, -5, 2, 3), 10, 12).sum() == 6
    assert masks.box_to_mask(Box(8, 8, 50, 50), 10, 12).sum() == 8
    assert not masks.box_to_mask(Box(-9, -9, -2, -3), 10, 12).any()


# RLE -------------------------------------------------------------------------------------------------------------


@given(MASKS)
def test_rle_round_trip_and_pycocotools_agree(mask):
    rle = masks.encode_rle(mask)
    assert json.loads(json.dumps(rle)) == rle
    decoded = masks.decode_rle(rle)
    assert decoded.dtype == bool and decoded.flags.c_contiguous and np.array_equal(decoded, mask)
    assert np.array_equal(coco_mask.decode(rle), mask)
    assert masks.normalize_rle({**rle, "counts": rle["counts"].encode()}) == rle


@given(MASKS)
def test_an_uncompressed_rle_becomes_the_compressed_one(mask):
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat]).astype(np.int8)))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    assert masks.normalize_rle({"size": list(mask.shape), "counts": runs}) == masks.encode_rle(mask)


def test_a_large_mask_survives():
    mask = blobs(np.random.default_rng(1), 700, 900)
    assert np.array_equal(masks.decode_rle(masks.encode_rle(mask)), mask)


GOOD = masks.encode_rle(discs_of_many_sizes(np.random.default_rng(3), 64, 50))


@pytest.mark.parametrize(
    ("rle", "reason"),
    [
        ({**GOOD, "counts": GOOD["counts"][:-1] + "P"}, "cut off"),
        ({**GOOD, "counts": GOOD["counts"] + "P"}, "cut off"),
        ({**GOOD, "size": [64, 51]}, "runs sum to 3200, size 64x51 needs 3264"),
        ({**GOOD, "size": [-64, -50]}, "size -64x-50"),
        ({**GOOD, "counts": GOOD["counts"] + "!"}, "a character outside the alphabet"),
        ({**GOOD, "counts": GOOD["counts"] + "é"}, "a character outside the alphabet"),
        ({**GOOD, "counts": GOOD["counts"].encode() + b"\xff"}, "a character outside the alphabet"),
        ({**GOOD, "counts": ""}, "no runs"),
        ({**GOOD, "counts": "O1"}, "a negative run"),
        ({**GOOD, "counts": "PPPPPPPPPP1"}, "longer than any image"),
        ({**GOOD, "counts": [3200, 1]}, "runs sum to 3201"),
        ({**GOOD, "counts": [3201, -1]}, "a negative run"),
        ({**GOOD, "counts": [1600.5, 1599.5]}, "neither text nor a list of integers"),
        ({**GOOD, "counts": []}, "neither text nor a list of integers"),
        ({**GOOD, "counts": None}, "neither text nor a list of integers"),
        ({"size": [64, 50]}, "not an RLE"),
        ({"size": [64], "counts": "1"}, "not an RLE"),
        (None, "not an RLE"),
    ],
)
def test_a_broken_rle_is_refused_and_says_where(rle, reason):
    for read in (masks.normalize_rle, masks.decode_rle):
        with pytest.raises(ValueError, match=r"^file\.json: sample 7: .*") as caught:
            read(rle, "file.json: sample 7")
        assert reason in str(caught.value)


@settings(max_examples=200)
@given(MASKS, st.data())
def test_a_damaged_rle_never_reads_as_a_mask_of_another_size(mask, data):
    rle = masks.encode_rle(mask)
    position = data.draw(st.integers(0, len(rle["counts"]) - 1))
    character = data.draw(st.characters())
    damaged = {**rle, "counts": rle["counts"][:position] + character + rle["counts"][position + 1 :]}
    try:
        decoded = masks.decode_rle(damaged)
    except ValueError:
        return
    assert decoded.shape == mask.shape


# Polygons --------------------------------------------------------------------------------------------------------


@given(MASKS)
def test_polygons_give_the_mask_back_with_its_holes_filled(mask):
    polygons = masks.mask_to_polygons(mask)
    assert np.array_equal(masks.polygons_to_mask(polygons, *mask.shape), ndimage.binary_fill_holes(mask))


def test_polygons_run_along_pixel_edges():
    mask = np.zeros((6, 8), bool)
    mask[1, 2] = True
    mask[3:5, 4:7] = True
    corners = [set(zip(polygon[::2], polygon[1::2], strict=True)) for polygon in masks.mask_to_polygons(mask)]
    assert {frozenset(part) for part in corners} == {
        frozenset({(2.0, 1.0), (3.0, 1.0), (3.0, 2.0), (2.0, 2.0)}),
        frozenset({(4.0, 3.0), (7.0, 3.0), (7.0, 5.0), (4.0, 5.0)}),
    }
    assert masks.mask_to_polygons(np.zeros((6, 8), bool)) == []
    assert not masks.polygons_to_mask([], 6, 8).any()


def test_a_polygon_without_area_is_refused():
    with pytest.raises(ValueError, match="a polygon with 4 numbers"):
        masks.polygons_to_mask([[0, 0, 3, 3]], 5, 5)
    with pytest.raises(ValueError, match="a polygon with 7 numbers"):
        masks.polygons_to_mask([[0, 0, 3, 3, 2, 1, 1]], 5, 5)


def test_boundary_iou_is_of_what_is_left_without_void():
    """A ring of void around the object: however far into it a mask reaches, it is right."""
    y, x = np.mgrid[:200, :200] - 100
    distance = np.hypot(y, x)
    target, void = distance <= 50, (distance > 50) & (distance <= 56)
    for radius in (50, 53, 56):
        assert masks.boundary_iou(distance <= radius, target, void) == 1.0
    assert masks.boundary_iou(distance <= 44, target, void) < 0.5


@pytest.mark.parametrize("corner", [float("nan"), float("inf"), 2e9, -1e5])
def test_a_polygon_that_leaves_every_picture_is_refused(corner):
    """Drawing it would end the process."""
    with pytest.raises(ValueError, match="a corner that is no pixel: give numbers within 30000 of 0"):
        masks.polygons_to_mask([[0, 0, corner, 0, 5, 5]], 10, 10)


def test_a_boundary_is_as_wide_as_the_share_of_the_diagonal_that_is_asked_for():
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    assert masks.boundary(mask).sum() == 60**2 - 54**2, "round(0.02 * hypot(100, 100)) = round(2.83) = 3"
    moved = np.roll(mask, 1, 1)
    wide = [masks.boundary(one, 0.1) for one in (mask, moved)]
    assert masks.boundary_iou(mask, moved, dilation_ratio=0.1) == masks.iou(*wide)


def test_a_hole_is_no_polygon_of_its_own():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    mask[4, 4] = False
    assert len(masks.mask_to_polygons(mask)) == 1

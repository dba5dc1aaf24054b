"""GraphCut itself: its parts against hand-worked cases, and the clicks it needs on real photographs."""

import heapq
import re
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from segagent.data.mask_folders import MaskFolders
from segagent.masks import iou, next_click
from segagent.segmenters.graphcut import GraphCut, _reduce_clicks
from segagent.segmenters.pixel_grid import FAR, make_pixel_grid
from segagent.segmenters.upsampling import enlarge_mask, make_guide
from segagent.types import Box, Click

ISEG = Path(__file__).resolve().parents[3] / "shared" / "data" / "iseg"


def two_discs(noise: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, left disc, right disc): two discs of one colour on a ground of another, 90 x 160."""
    rows, columns = np.mgrid[:90, :160]
    left, right = (np.hypot(rows - 45, columns - middle) < 24 for middle in (45, 115))
    image = np.full((90, 160, 3), (60, 90, 70), np.int64)
    image[left | right] = (190, 160, 60)
    image += np.random.default_rng(0).integers(-noise, noise + 1, image.shape)
    return image.astype(np.uint8), left, right


def click_through(segmenter, image, clicks, box=None, memory=None):
    """The mask after each click."""
    embeddings, masks, memories = segmenter.embed([image]), [], [memory]
    for count in range(1, len(clicks) + 1):
        new, memories = segmenter.predict(embeddings, [clicks[:count]], memories, [box])
        masks += new
    return masks


def test_one_click_takes_one_object_two_take_both():
    image, left, right = two_discs()
    first, second = click_through(GraphCut(), image, [Click(45, 45), Click(115, 45)])
    assert iou(first, left) > 0.95
    assert iou(second, left | right) > 0.95


def test_a_negative_click_takes_a_part_away_and_leaves_the_rest():
    image, left, right = two_discs()
    segmenter = GraphCut()
    embeddings = segmenter.embed([image])
    _, memory = segmenter.predict(embeddings, [[]], [None], [Box(10, 10, 150, 80)])
    clicks = [Click(45, 45), Click(115, 45, False)]
    masks, _ = segmenter.predict(embeddings, [clicks[:1]], memory)
    assert (masks[0] & right).sum() > 0.9 * right.sum(), "not the case this test is about"
    masks, _ = segmenter.predict(embeddings, [clicks], memory)
    assert iou(masks[0], left) > 0.9


def test_only_negative_clicks_give_an_empty_mask():
    image, *_ = two_discs()
    assert not click_through(GraphCut(), image, [Click(45, 45, False)])[0].any()


def test_a_box_finds_its_object_and_nothing_outside():
    image, left, _ = two_discs()
    masks, memory = GraphCut().predict(GraphCut().embed([image]), [[]], [None], [Box(18, 18, 72, 72)])
    assert iou(masks[0], left) > 0.9
    assert not masks[0][:, 74:].any()
    assert memory[0].mask is not masks[0]


def test_outside_the_box_is_background_until_a_positive_click_lies_there():
    image, _left, right = two_discs()
    box = Box(18, 18, 95, 72)
    inside, outside = click_through(GraphCut(), image, [Click(45, 45), Click(115, 45)], box)
    assert not inside[:, 97:].any()
    assert (outside & right).sum() > 0.9 * right.sum()


def test_a_box_through_an_object_cuts_it():
    image, left, _ = two_discs()
    mask = click_through(GraphCut(), image, [Click(35, 45)], Box(15, 15, 46, 75))[0]
    assert not mask[:, 46:].any()
    assert (mask & left).sum() > 0.45 * left.sum()


def test_a_pixel_clicked_again_is_the_newest():
    """Only the newest click changes its surroundings; that must not depend on its pixel having been clicked before."""
    embedding = GraphCut().embed([two_discs()[0]])[0]
    clicks = [Click(45, 45), Click(115, 45), Click(45, 45, False)]
    assert list(_reduce_clicks(clicks, embedding).items()) == [((115, 45), True), ((45, 45), False)]


def test_a_given_mask_can_be_corrected_on_both_sides():
    image, left, right = two_discs()
    segmenter = GraphCut()
    memory = segmenter.remember(segmenter.embed([image]), [right])[0]
    added, swapped = click_through(segmenter, image, [Click(45, 45), Click(115, 45, False)], memory=memory)
    assert iou(added, left | right) > 0.95
    assert iou(swapped, left) > 0.8


def test_what_an_earlier_click_settled_survives_a_new_click_elsewhere():
    """Same clicks with the memory weighing nothing: the memory is what keeps the far part."""
    random = np.random.default_rng(3)
    image = cv2.GaussianBlur(random.integers(0, 256, (80, 160, 3)).astype(np.float32), (0, 0), 4)
    image = np.clip((image - image.mean()) * 6 + 128, 0, 255).astype(np.uint8)
    clicks = [Click(30, 40), Click(60, 60, False), Click(130, 40), Click(140, 20, False), Click(130, 60, False)]

    def changed(segmenter):
        masks = click_through(segmenter, image, clicks)
        return (masks[-1] ^ masks[-2])[:, :80].sum() + (masks[-2] ^ masks[-3])[:, :80].sum()

    with_memory, without = changed(GraphCut(memory_weight=8.0)), changed(GraphCut(memory_weight=0.0))
    assert with_memory < 0.5 * without


def test_larger_pictures_get_outlines_finer_than_the_reduced_grid():
    """Pixels of the reduced grid are 12 wide here; enlarged without the picture's edges the IoU is 0.93."""
    rows, columns = np.mgrid[:540, :960]
    target = np.hypot(rows - 270, columns - 270) < 144
    image = np.where(target[..., None], (190, 160, 60), (60, 90, 70)).astype(np.uint8)
    mask = click_through(GraphCut(max_pixels=3600), image, [Click(270, 270)])[0]
    assert iou(mask, target) > 0.98


# --- the parts --------------------------------------------------------------------------------------------------------


def test_geodesic_distances_equal_a_plain_search():
    random = np.random.default_rng(0)
    lab = random.uniform(0, 40, (7, 9, 3)).astype(np.float32)
    grid = make_pixel_grid(lab)
    steps = grid.steps.todok()
    seeds = np.zeros((7, 9), bool)
    seeds[0, 0] = seeds[6, 4] = True
    best, queue = {}, [(0.0, int(k)) for k in np.flatnonzero(seeds)]
    while queue:
        distance, node = heapq.heappop(queue)
        if node in best:
            continue
        best[node] = distance
        row, column = divmod(node, 9)
        for down, right in product((-1, 0, 1), repeat=2):
            if (down or right) and 0 <= row + down < 7 and 0 <= column + right < 9:
                other = (row + down) * 9 + column + right
                heapq.heappush(queue, (distance + steps[node, other], other))
    np.testing.assert_allclose(grid.distances(seeds).ravel(), [best[k] for k in range(63)])
    assert (grid.distances(np.zeros((7, 9), bool)) == FAR).all()


def test_a_step_over_an_edge_is_longer_than_over_even_ground():
    lab = np.zeros((1, 3, 3), np.float32)
    lab[:, 2] = 50
    grid = make_pixel_grid(lab)
    seeds = np.array([[True, False, False]])
    start, even, over = grid.distances(seeds)[0]
    assert start == 0 and 0 < even < 1 < over - even


def test_the_cut_is_the_least_energy_of_all_masks():
    random = np.random.default_rng(1)
    grid = make_pixel_grid(random.uniform(0, 30, (3, 4, 3)).astype(np.float32))
    for _ in range(5):
        preference = random.normal(0, 1, (3, 4))

        def energy(labels, preference=preference):
            against = np.where(labels, np.maximum(-preference.ravel(), 0), np.maximum(preference.ravel(), 0)).sum()
            return against + 0.7 * grid.cut_costs[labels[grid.tails] != labels[grid.heads]].sum()

        least = min(energy(np.array(labels)) for labels in product((False, True), repeat=12))
        assert energy(grid.minimum_cut(preference, 0.7).ravel()) == pytest.approx(least)


def test_enlarging_follows_the_edges_of_the_full_picture():
    """A slanted edge that the reduced grid can only draw in steps of 8 pixels."""
    rows, columns = np.mgrid[:160, :160]
    target = rows + 0.37 * columns > 110
    image = np.where(target[..., None], (200, 80, 60), (50, 70, 160)).astype(np.uint8)
    reduced = cv2.resize(target.astype(np.float32), (20, 20), interpolation=cv2.INTER_AREA) > 0.5
    blocks = np.kron(reduced, np.ones((8, 8), bool))
    fine = enlarge_mask(reduced, make_guide(image, 20, 20))
    assert (fine ^ target).sum() < 0.4 * (blocks ^ target).sum()


def test_enlarging_to_the_same_size_changes_nothing():
    mask = np.random.default_rng(0).random((12, 9)) > 0.5
    np.testing.assert_array_equal(enlarge_mask(mask, make_guide(np.zeros((12, 9, 3), np.uint8), 12, 9)), mask)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"max_pixels": 0}, {"color_bins": 1}, {"passes": 0}, {"reach": 0.0}, {"smoothness": -1.0}]
)
def test_options_without_sense_are_refused(options):
    with pytest.raises(ValueError):
        GraphCut(**options)


def test_there_is_no_checkpoint():
    with pytest.raises(ValueError, match="no weights"):
        GraphCut.from_checkpoint("weights.pth")
    assert GraphCut.from_checkpoint(passes=1).passes == 1


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_other_images_are_refused(image):
    with pytest.raises(ValueError, match="uint8 RGB"):
        GraphCut().embed([image])


@pytest.mark.parametrize("mask", [np.zeros((9, 8), bool), np.zeros((9, 9), np.uint8)])
def test_other_masks_are_refused(mask):
    segmenter = GraphCut()
    with pytest.raises(ValueError, match=re.escape("bool [9, 9]")):
        segmenter.remember(segmenter.embed([np.zeros((9, 9, 3), np.uint8)]), [mask])


# --- photographs ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not ISEG.is_dir(), reason=f"no photographs: {ISEG.name} is not beside the checkout")
def test_photographs_need_few_clicks():
    """Every sixth of the 77 photographs; benchmarks/click_segmenter.py measures all; the bound leaves room."""
    samples = MaskFolders(root=str(ISEG), void_value=128)
    segmenter, needed = GraphCut(), []
    for index in range(0, len(samples), 6):
        sample = samples[index]
        clicks, mask, memory = [], np.zeros(sample.target.shape, bool), [None]
        embeddings = segmenter.embed([sample.image])
        while len(clicks) < 10 and iou(mask, sample.target, sample.void) < 0.85:
            clicks.append(next_click(sample.target, mask, [(c.x, c.y) for c in clicks], sample.void))
            (mask,), memory = segmenter.predict(embeddings, [clicks], memory)
        needed.append(len(clicks))
    assert np.mean(needed) < 4.5, needed

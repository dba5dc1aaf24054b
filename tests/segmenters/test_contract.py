"""What every click segmenter promises, whatever it is made of. New members join by one line in MEMBERS."""

import pickle

import numpy as np
import pytest
import torch

from segagent.configuration import build, load_named
from segagent.engines.segmenter_host import RemoteSegmenter, SegmenterHost
from segagent.segmenters import GraphCut, SimpleClick
from segagent.segmenters.simpleclick_vit import SimpleClickConfig, SimpleClickNet
from segagent.types import Box, Click


def tiny_simpleclick():
    """Random weights: every promise but that about click points, which it waives, must hold."""
    torch.manual_seed(0)
    config = SimpleClickConfig(
        image_size=64, patch_size=16, embed_dim=32, depth=4, num_heads=2, out_dims=(8, 8, 12, 16), head_channels=8
    )
    network = SimpleClickNet(config)
    with torch.no_grad():
        network.head.conv_seg.weight *= 200  # so that probabilities lie on both sides of the threshold
        network.head.conv_seg.bias.zero_()
    return SimpleClick(network=network, device="cpu")


def shipped_simpleclick():
    config = load_named("segmenter", "simpleclick_nano")
    config.device = "cpu"
    return build(config)


def of_a_host(segmenter):
    """Asked as over a cluster: all that goes to the host and comes back is pickled on the way."""
    host = SegmenterHost(None, ".")
    host.segmenter = segmenter

    def ask(name, *given):
        return pickle.loads(pickle.dumps(getattr(host, name)(*pickle.loads(pickle.dumps(given)))))

    return RemoteSegmenter(ask, "asker")


# Each is made by a function of the fixture `tiny_sam`, which some need.
MEMBERS = {
    "graphcut": lambda _: GraphCut(),
    "simpleclick": lambda _: tiny_simpleclick(),
    "simpleclick_nano": lambda _: shipped_simpleclick(),
    "sam": lambda tiny_sam: tiny_sam("sam"),
    "sam_hq": lambda tiny_sam: tiny_sam("sam_hq"),
    "sam2": lambda tiny_sam: tiny_sam("sam2"),
    "sam3_tracker": lambda tiny_sam: tiny_sam("sam3_tracker"),
    "graphcut of a host": lambda _: of_a_host(GraphCut()),
    "sam of a host": lambda tiny_sam: of_a_host(tiny_sam("sam")),
}


@pytest.fixture(params=MEMBERS)
def make(request, tiny_sam):
    return lambda: MEMBERS[request.param](tiny_sam)


@pytest.fixture
def segmenter(make):
    return make()


def scene(height: int = 60, width: int = 80, seed: int = 0) -> np.ndarray:
    """A red disc and a green block on grainy blue, `[height, width, 3]` uint8."""
    rows, columns = np.mgrid[:height, :width]
    image = np.full((height, width, 3), (40, 60, 150), np.int64)
    image[np.hypot(rows - 0.5 * height, columns - 0.3 * width) < 0.22 * min(height, width)] = (200, 50, 40)
    image[int(0.3 * height) : int(0.8 * height), int(0.6 * width) : int(0.9 * width)] = (50, 170, 60)
    image += np.random.default_rng(seed).integers(-12, 13, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def run(segmenter, image, clicks, memory=None, box=None):
    masks, memories = segmenter.predict(segmenter.embed([image]), [clicks], [memory], [box])
    return masks[0], memories[0]


def assert_holds_clicks(segmenter, mask, clicks):
    if segmenter.waives_click_points:
        return
    for (x, y), is_positive in {(click.x, click.y): click.is_positive for click in clicks}.items():
        assert mask[y, x] == is_positive, f"click ({x}, {y}), positive: {is_positive}"


def frozen(value):
    """Everything a memory or embedding holds, as bytes: equal before and after means not written to."""
    return pickle.dumps(value)


CLICKS = (Click(24, 30), Click(60, 30, False), Click(5, 5, False), Click(30, 36))


def test_says_what_it_accepts(segmenter):
    assert isinstance(segmenter.accepts_boxes, bool)
    assert isinstance(segmenter.waives_click_points, str)


def test_masks_are_bool_of_the_images_size(segmenter):
    mask, _ = run(segmenter, scene(48, 70), [Click(20, 24)])
    assert mask.shape == (48, 70) and mask.dtype == np.bool_


def test_equal_calls_give_equal_masks(segmenter):
    first, again = (run(segmenter, scene(), CLICKS[:2])[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_equal_calls_of_two_instances_agree_whatever_they_did_before(make):
    busy, fresh = make(), make()
    run(busy, scene(seed=5), [Click(3, 3)])
    np.testing.assert_array_equal(run(busy, scene(), CLICKS[:2])[0], run(fresh, scene(), CLICKS[:2])[0])


def test_a_batch_equals_its_members(segmenter):
    images = [scene(60, 80, 0), scene(41, 66, 1), scene(90, 50, 2)]
    clicks = [CLICKS[:1], [Click(20, 20), Click(50, 8, False)], [Click(15, 45)]]
    embeddings = segmenter.embed(images)
    masks, memories = segmenter.predict(embeddings, clicks, [None] * 3)
    later, _ = segmenter.predict(embeddings, [[*points, Click(1, 1, False)] for points in clicks], memories)
    for image, points, mask, after in zip(images, clicks, masks, later, strict=True):
        alone, memory = run(segmenter, image, points)
        np.testing.assert_array_equal(mask, alone)
        np.testing.assert_array_equal(after, run(segmenter, image, [*points, Click(1, 1, False)], memory)[0])


def test_branches_do_not_touch_each_other(segmenter):
    embeddings = segmenter.embed([scene()])
    masks, memories = segmenter.predict(embeddings, [CLICKS[:1]], [None])
    before = frozen((embeddings, masks, memories))
    left, left_memories = segmenter.predict(embeddings, [CLICKS[:2]], memories)
    _, right_memories = segmenter.predict(embeddings, [(CLICKS[0], Click(70, 40))], memories)
    again, _ = segmenter.predict(embeddings, [CLICKS[:2]], memories)
    assert frozen((embeddings, masks, memories)) == before
    np.testing.assert_array_equal(left[0], again[0])
    assert frozen(left_memories) != frozen(right_memories)


def test_a_mask_handed_out_may_be_written_to_without_spoiling_its_memory_twin(segmenter):
    embeddings = segmenter.embed([scene()])
    _, memories = segmenter.predict(embeddings, [CLICKS[:1]], [None])
    expected, _ = segmenter.predict(embeddings, [CLICKS[:2]], memories)
    masks, memories = segmenter.predict(embeddings, [CLICKS[:1]], [None])
    masks[0][:] = True
    np.testing.assert_array_equal(segmenter.predict(embeddings, [CLICKS[:2]], memories)[0][0], expected[0])


def test_embeddings_and_memories_can_be_pickled(segmenter):
    embeddings = segmenter.embed([scene()])
    _, memories = segmenter.predict(embeddings, [CLICKS[:1]], [None])
    expected, _ = segmenter.predict(embeddings, [CLICKS[:2]], memories)
    copies = pickle.loads(pickle.dumps((embeddings, memories)))
    np.testing.assert_array_equal(segmenter.predict(copies[0], [CLICKS[:2]], copies[1])[0][0], expected[0])


def test_every_click_of_a_sequence_is_kept(segmenter):
    memory = None
    for count in range(1, len(CLICKS) + 1):
        mask, memory = run(segmenter, scene(), CLICKS[:count], memory)
        assert_holds_clicks(segmenter, mask, CLICKS[:count])


@pytest.mark.parametrize("size", [(60, 80), (700, 900)])
def test_neighbouring_clicks_of_opposite_sign_are_both_kept(segmenter, size):
    y, x = size[0] // 2, size[1] // 2
    clicks = [Click(x, y), Click(x + 1, y, False), Click(x, y + 1), Click(x - 1, y, False)]
    mask, _ = run(segmenter, scene(*size), clicks)
    assert_holds_clicks(segmenter, mask, clicks)


@pytest.mark.parametrize("last", [True, False])
def test_of_contradicting_clicks_the_last_one_wins(segmenter, last):
    clicks = [Click(24, 30, not last), Click(24, 30, last)]
    mask, _ = run(segmenter, scene(), clicks)
    assert_holds_clicks(segmenter, mask, clicks)


@pytest.mark.parametrize("size", [(8, 8), (8, 300), (300, 8), (9, 13), (333, 501)])
def test_any_size(segmenter, size):
    clicks = [Click(size[1] // 2, size[0] // 2), Click(size[1] - 1, size[0] - 1, False)]
    mask, memory = run(segmenter, scene(*size), clicks)
    assert mask.shape == size
    assert_holds_clicks(segmenter, mask, clicks)
    assert run(segmenter, scene(*size), [*clicks, Click(0, 0)], memory)[0].shape == size


def test_a_camera_picture(segmenter):
    clicks = [Click(1200, 1500), Click(3999, 2999, False)]
    mask, _ = run(segmenter, np.kron(scene(60, 80), np.ones((50, 50, 1), np.uint8)), clicks)
    assert mask.shape == (3000, 4000)
    assert_holds_clicks(segmenter, mask, clicks)


@pytest.mark.parametrize(
    "image",
    [
        np.full((40, 50, 3), 128, np.uint8),
        np.zeros((40, 50, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8),
        np.repeat(np.random.default_rng(1).integers(0, 256, (40, 50, 1), dtype=np.uint8), 3, 2),
    ],
    ids=["even", "black", "noise", "grey noise"],
)
def test_pictures_without_structure(segmenter, image):
    clicks = [Click(25, 20), Click(3, 3, False), Click(40, 30)]
    memory = None
    for count in range(1, 4):
        mask, memory = run(segmenter, image, clicks[:count], memory)
        assert_holds_clicks(segmenter, mask, clicks[:count])


def test_only_negative_clicks(segmenter):
    clicks = [Click(24, 30, False), Click(60, 30, False)]
    memory = None
    for count in (1, 2):
        mask, memory = run(segmenter, scene(), clicks[:count], memory)
        assert_holds_clicks(segmenter, mask, clicks[:count])


def test_a_given_mask_is_gone_on_from(segmenter):
    given = np.zeros((60, 80), bool)
    given[20:50, 50:72] = True
    embeddings = segmenter.embed([scene()])
    before = given.copy()
    memory = segmenter.remember(embeddings, [given])
    clicks = [Click(24, 30)]
    masks, memories = segmenter.predict(embeddings, [clicks], memory)
    np.testing.assert_array_equal(given, before)
    _, without = segmenter.predict(embeddings, [clicks], [None])
    assert frozen(memories) != frozen(without), "the given mask was forgotten"
    assert_holds_clicks(segmenter, masks[0], clicks)
    if segmenter.waives_click_points:  # untrained weights need not think much of either
        return
    assert (masks[0] & given).sum() > 0.7 * given.sum(), "the given mask was forgotten"
    assert masks[0][:, :45].sum() > 50, "the click added nothing"


def test_a_given_empty_or_full_mask_is_fine(segmenter):
    embeddings = segmenter.embed([scene()])
    for given in (np.zeros((60, 80), bool), np.ones((60, 80), bool)):
        memory = segmenter.remember(embeddings, [given])
        for click in (Click(24, 30), Click(24, 30, False)):
            mask = segmenter.predict(embeddings, [[click]], memory)[0][0]
            assert_holds_clicks(segmenter, mask, [click])


def test_boxes_are_used_or_refused(segmenter):
    box = Box(8, 12, 42, 48)
    if not segmenter.accepts_boxes:
        with pytest.raises(ValueError, match="box"):
            run(segmenter, scene(), [Click(24, 30)], box=box)
        return
    mask, memory = run(segmenter, scene(), [], box=box)
    _, elsewhere = run(segmenter, scene(), [], box=Box(50, 5, 75, 50))
    assert frozen(memory) != frozen(elsewhere), "the box was not looked at"
    after, _ = run(segmenter, scene(), CLICKS[:2], memory, box)
    assert_holds_clicks(segmenter, after, CLICKS[:2])
    if not segmenter.waives_click_points:
        assert mask[30, 24] and mask[:, 50:].mean() < 0.1


def test_neither_click_nor_box_is_refused(segmenter):
    with pytest.raises(ValueError, match="no click"):
        run(segmenter, scene(), [])


@pytest.mark.parametrize("x, y", [(80, 5), (5, 60), (-1, 5), (5, -1)])
def test_a_click_outside_is_refused(segmenter, x, y):
    with pytest.raises(ValueError, match="outside"):
        run(segmenter, scene(), [Click(24, 30), Click(x, y)])


def test_lists_of_unequal_length_are_refused(segmenter):
    embeddings = segmenter.embed([scene()])
    for clicks, memory in (([CLICKS, CLICKS], [None]), ([CLICKS], [None, None]), ([], [])):
        with pytest.raises(ValueError, match="one of each per state"):
            segmenter.predict(embeddings, clicks, memory)
    with pytest.raises(ValueError):
        segmenter.remember(embeddings, [])


def test_an_empty_batch_is_an_empty_batch(segmenter):
    assert segmenter.embed([]) == []
    assert tuple(map(list, segmenter.predict([], [], []))) == ([], [])

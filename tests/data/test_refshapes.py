"""`refshapes`: the same everywhere, every text singles out its target, each subset in its manner."""

import json
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest

from segagent.data.refshapes import RefShapes, hashes
from segagent.data.refshapes.grammar import parse
from segagent.data.refshapes.meaning import denotes
from segagent.data.refshapes.outline import box, cosine, disc, ring, sine
from segagent.data.refshapes.randomness import Stream
from segagent.data.refshapes.raster import FULL, Placement, draw
from segagent.data.refshapes.scene import Scene, Thing
from segagent.data.refshapes.solid import GEOMETRIC, THINGS
from segagent.data.refshapes.thin import LONG, ROUND
from segagent.data.refshapes.vocabulary import PLACE_WORDS, SUBSETS, THIN_NOUNS, alike

FIXTURE = Path(__file__).parents[1] / "fixtures" / "refshapes_hashes.json"
COUNT = 100


@pytest.fixture(scope="module")
def drawn():
    """subset -> [(sample, scene)] from a seed that the published set does not use."""
    datasets = {subset: RefShapes(subset=subset, split="train", seed=7) for subset in SUBSETS}
    return {name: [(data[index], data.scene(index)) for index in range(COUNT)] for name, data in datasets.items()}


def thing(noun="star", color="red", x=512, y=512, extent=100, pattern="plain", covered=0):
    edges = (x - extent, y - extent, x + extent, y + extent)
    return Thing(noun, color, pattern, x, y, edges, extent, 100 - covered, covered, 1000)


def scene_of(*things, hides=None):
    return Scene(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), -1, np.int16), things, hides or {})


def singled_out(text, *things, hides=None):
    return denotes(parse(text), scene_of(*things, hides=hides))


# --- the same on every machine ---------------------------------------------------------------------------------


def test_pictures_masks_and_texts_are_the_pinned_ones():
    assert hashes.all_hashes() == json.loads(FIXTURE.read_text())


def test_a_sample_does_not_depend_on_what_was_drawn_before():
    in_order, alone = RefShapes(subset="refshapesg"), RefShapes(subset="refshapesg")
    earlier = [hashes.sample_hash(in_order[index]) for index in range(6)]
    assert hashes.sample_hash(alone[5]) == earlier[5]
    assert hashes.sample_hash(alone[0]) == earlier[0]


def test_limit_does_not_change_samples_and_train_reaches_far():
    assert hashes.sample_hash(RefShapes(limit=3)[2]) == hashes.sample_hash(RefShapes()[2])
    far = RefShapes(split="train")
    assert len(far) == 1_000_000 and far[999_999].target.any()
    assert len(RefShapes(split="train", limit=5_000_000)) == 5_000_000
    assert len(RefShapes(split="testA")) == 1_000 == len(RefShapes(split="testB", limit=9_999))


def test_changing_a_drawn_image_leaves_the_next_sample_alone():
    data = RefShapes()
    data[0].image[:] = 0
    assert data[1].image.any()


def test_samples_of_one_scene_share_image_name_and_key_and_only_they():
    data = RefShapes()
    first, second, third = data[0], data[1], data[2]
    assert first.image_key == second.image_key != third.image_key
    assert first.image_name == second.image_name != third.image_name
    assert np.array_equal(first.image, second.image)
    assert (first.object_id, first.text) != (second.object_id, second.text)
    assert RefShapes(size=128)[0].image_key != first.image_key


def test_splits_and_seeds_share_no_picture():
    pictures, keys = set(), set()
    for split in ("train", "val", "testA", "testB"):
        for seed in (0, 1, 10):
            for sample in (RefShapes(split=split, seed=seed)[index] for index in (0, 20)):
                pictures.add(sample.image.tobytes())
                keys.add(sample.image_key)
    assert len(pictures) == len(keys) == 24


def test_stream_is_a_function_of_its_key():
    assert [Stream("a", 1).word(), Stream("a", 1).word()] == [Stream("a", 1).word()] * 2
    assert Stream("a").fork("b").word() == Stream("a", "b").word() != Stream("a", "c").word()
    stream = Stream("words")
    assert len({stream.word() for _ in range(1000)}) == 1000
    counts = np.bincount([stream.below(5) for _ in range(5000)], minlength=5)
    assert counts.min() > 900
    assert sorted(stream.shuffled(range(50))) == list(range(50))


# --- samples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [128, 320])
def test_sample_has_the_promised_types_at_any_size(size):
    sample = RefShapes(subset="refshapes-thin", size=size)[4]
    assert sample.image.shape == (size, size, 3) and sample.image.dtype == np.uint8
    assert sample.target.shape == (size, size) and sample.target.dtype == np.bool_ and sample.target.any()
    assert sample.void is None and sample.sample_id == "refshapes-thin/val/0/000004"


@pytest.mark.parametrize("subset", SUBSETS)
def test_targets_are_visible_and_stand_out(subset, drawn):
    for sample, scene in drawn[subset]:
        target = scene.things[int(sample.object_id.rsplit("/", 1)[1])]
        assert target.seen >= 40 and target.pixels == np.count_nonzero(sample.target) >= 100
        assert target.noun == sample.category
        image = sample.image.astype(int)
        around = cv2.dilate(sample.target.view(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
        around &= scene.labels == -1
        if target.pattern == "plain" and np.count_nonzero(around) > 50:
            # The bulk of the target differs from the ground next to it.
            differences = np.abs(image[sample.target].mean(0) - image[around].mean(0)).sum()
            assert differences > 25, (sample.sample_id, sample.text)


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_thing_stays_visible_and_no_two_names_can_be_mixed_up(subset, drawn):
    for sample, scene in drawn[subset]:
        assert all(part.seen >= 40 for part in scene.things), sample.sample_id
        for first, second in combinations(scene.things, 2):
            assert not alike(first.noun, second.noun) and not alike(first.color, second.color)
        for near, far in scene.hides:
            assert near > far and scene.things[near].color != scene.things[far].color


def test_targets_come_in_all_sizes(drawn):
    shares = np.array([sample.target.mean() for sample, _ in drawn["refshapes"]])
    assert shares.min() < 0.004 and shares.max() > 0.06
    assert 0.1 < np.mean(shares < 0.006) < 0.5


def test_scenes_hold_several_things_occlusions_and_distractors(drawn):
    scenes = [scene for _, scene in drawn["refshapes"]]
    assert {len(scene.things) for scene in scenes} >= {3, 4, 5, 6, 7}
    assert np.mean([bool(scene.hides) for scene in scenes]) > 0.4
    rivals = [
        any(other is not part and (other.noun == part.noun or other.color == part.color) for other in scene.things)
        for scene in scenes
        for part in scene.things
    ]
    assert np.mean(rivals) > 0.7


def test_thin_targets_are_thin_and_full_of_holes(drawn):
    half_widths, holes = [], []
    for sample, _ in drawn["refshapes-thin"]:
        mask = sample.target.astype(np.uint8)
        distance = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)
        half_widths.append(distance.max())
        filled = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((31, 31), np.uint8))
        holes.append(np.count_nonzero(filled) / np.count_nonzero(mask))
        assert sample.category in THIN_NOUNS
    assert np.median(half_widths) < 4.5 and np.median(holes) > 2
    solid = [cv2.distanceTransform(s.target.astype(np.uint8), cv2.DIST_L2, 5).max() for s, _ in drawn["refshapes"]]
    assert np.median(solid) > 2 * np.median(half_widths)


@pytest.mark.parametrize("subset, first, second", [("refshapes", GEOMETRIC, THINGS), ("refshapes-thin", ROUND, LONG)])
def test_test_splits_ask_for_different_nouns(subset, first, second):
    assert {RefShapes(subset=subset, split="testA")[index].category for index in range(12)} <= set(first)
    assert {RefShapes(subset=subset, split="testB")[index].category for index in range(12)} <= set(second)


# --- texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subset", SUBSETS)
def test_every_text_read_back_denotes_exactly_its_target(subset, drawn):
    for sample, scene in drawn[subset]:
        target = denotes(parse(sample.text), scene)
        assert target is not None and np.array_equal(scene.mask(target), sample.target), sample.text


def test_plus_says_nothing_about_places(drawn):
    for sample, _ in drawn["refshapes+"]:
        assert not PLACE_WORDS & set(sample.text.split()), sample.text
    spoken = {word for sample, _ in drawn["refshapes"] for word in sample.text.split()}
    assert len(PLACE_WORDS & spoken) > 12


def test_lengths_follow_the_subsets(drawn):
    words = {subset: np.mean([len(sample.text.split()) for sample, _ in drawn[subset]]) for subset in SUBSETS}
    assert words["refshapesg"] > 7.5 > 5.5 > words["refshapes"] > 3
    assert words["refshapes+"] < 5.5 and words["refshapes-thin"] < 5.5
    assert all(len({sample.text for sample, _ in drawn[subset]}) > COUNT * 3 // 4 for subset in SUBSETS)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("the blue star", 1),
        ("star", None),
        ("red star", None),
        ("leftmost star", 0),
        ("the star on the far right", 2),
        ("second star from the left", 1),
        ("the red star to the right of the blue star", 2),
        ("a mug that is below the blue star", 3),
        ("thing between the mug and the blue star", None),
        ("the small star", None),
        ("the green star", None),
        ("mug at the bottom", 3),
        ("the star above the mug", None),
        ("the thing nearest to the mug", 1),
    ],
)
def test_meaning_in_a_hand_made_scene(text, expected):
    things = (thing(x=120, y=300), thing(color="blue", x=500, y=500), thing(x=900, y=300))
    assert singled_out(text, *things, thing("mug", "green", x=500, y=850)) == expected


def test_sizes_need_a_clear_margin():
    assert singled_out("big star", thing(extent=160), thing(x=100, extent=90)) == 0
    assert singled_out("the small star", thing(extent=160), thing(x=100, extent=90)) == 1
    assert singled_out("big star", thing(extent=120), thing(x=100, extent=90)) is None
    assert singled_out("the biggest star", thing(extent=120), thing(x=100, extent=90)) == 0
    assert singled_out("big star", thing(extent=90)) is None
    assert singled_out("the mug bigger than the star", thing(), thing("mug", extent=150), thing("mug", extent=60)) == 1


def test_places_need_a_clear_margin():
    assert singled_out("left star", thing(x=300), thing(x=340)) is None
    assert singled_out("left star", thing(x=300), thing(x=700)) == 0
    assert singled_out("star on the left", thing(x=480)) is None
    assert singled_out("star in the top left corner", thing(x=150, y=150), thing(x=480, y=480)) is None
    assert singled_out("star in the top left corner", thing(x=150, y=150), thing(x=800, y=480)) == 0
    assert singled_out("star in the middle", thing(x=520), thing(x=100)) == 0


def test_hidden_things_and_depth():
    pair = (thing(x=300, covered=30), thing("mug", x=360), thing(x=800))
    hides = {(1, 0): 300}
    assert singled_out("partly hidden star", *pair, hides=hides) == 0
    assert singled_out("the star behind the mug", *pair, hides=hides) == 0
    assert singled_out("mug in front of the red star on the left", *pair, hides=hides) == 1
    assert singled_out("the star behind the mug", *pair, hides={(1, 0): 5}) is None
    assert singled_out("half hidden star", thing(covered=8), thing("mug")) is None


def test_between_two_things():
    row = (thing("mug", x=150), thing(x=500), thing("ring", x=850), thing(x=500, y=950))
    assert singled_out("the star between the mug and the ring", *row) == 1


@pytest.mark.parametrize(
    "text", ["", "the", "red", "the star of the mug", "second star", "red blue star", "star and mug"]
)
def test_texts_outside_the_grammar_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        parse(text)


# --- drawing ---------------------------------------------------------------------------------------------------


def test_sine_table_against_the_library():
    angles = np.arange(1024)
    expected = np.rint(2**14 * np.sin(2 * np.pi * angles / 1024))
    assert [sine(angle) for angle in range(1024)] == expected.astype(int).tolist()
    assert [cosine(angle) for angle in range(1024)] == np.roll(expected, -256).astype(int).tolist()


def test_a_rectangle_covers_exactly_its_area():
    # 1000 local units become 10 pixels; the box spans 5.25 .. 15.25 pixels across and 10 .. 20 down.
    ink = draw((box(-500, -500, 500, 500),), Placement(2624, 3840, 2560, 2560), 32)
    assert int(ink.cover.sum()) == 100 * FULL
    row = np.zeros(32, int)
    row[ink.x : ink.x + ink.cover.shape[1]] = ink.cover[5]
    assert row[5] == FULL * 3 // 4 and row[15] == FULL // 4 and (row[6:15] == FULL).all()
    assert ink.total == 100


def test_discs_rings_and_unions_have_the_right_area():
    place = Placement(64 * 256, 64 * 256, 50 * 256, 50 * 256, angle=100)
    areas = [
        draw(outline, place, 128).cover.sum() / FULL for outline in ((disc((0, 0), 1000),), ring((0, 0), 900, 100))
    ]
    assert areas[0] == pytest.approx(np.pi * 2500, rel=0.01)
    assert areas[1] == pytest.approx(np.pi * 2500 * 0.36, rel=0.01)
    twice = draw((disc((0, 0), 1000), disc((0, 0), 1000)), place, 128)
    assert twice.cover.max() == FULL and twice.cover.sum() / FULL == pytest.approx(areas[0], rel=0.02)


def test_drawing_beyond_the_border_is_cut_but_counted():
    whole = draw((disc((0, 0), 1000),), Placement(32 * 256, 32 * 256, 2560, 2560), 64)
    cut = draw((disc((0, 0), 1000),), Placement(0, 32 * 256, 2560, 2560), 64)
    assert cut.total == whole.total and (cut.x, cut.cover.shape[1]) == (0, 11)
    assert 2 * np.count_nonzero(cut.mask) == whole.total


# --- arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"subset": "refcoco"}, r"subset is 'refcoco'.*refshapes\+"),
        ({"split": "test"}, "split is 'test'.*testA"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"limit": 0}, "limit is 0"),
        ({"size": 64}, r"size is 64.*128\.\.1024"),
        ({"size": True}, "size is True"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RefShapes(**arguments)


def test_indices_beyond_the_end_raise_index_error():
    data = RefShapes(limit=3)
    with pytest.raises(IndexError, match="sample 3 of 3"):
        data[3]
    assert [sample.sample_id for sample in data] == [data.sample_id(index) for index in range(3)]
    assert data.sample_id(-1) == data.sample_id(2)

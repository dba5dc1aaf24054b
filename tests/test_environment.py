import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segagent.data.segagent_json import official_record
from segagent.environment import Environment, stable_generator, to_trajectory
from segagent.masks import bounding_box, box_to_mask, decode_rle, iou
from segagent.policies.simulated import Oracle
from segagent.rollout import finish
from segagent.types import Action, Box, Click, EndReason, InitKind, Sample

TRACE = Path(__file__).parent / "fixtures" / "trace_record" / "samples.npz"


def test_start_from_nothing(discs, sample_of):
    state = Environment(segmenter=discs).start(sample_of())
    assert not state.mask.any() and state.iou == 0 and state.memory is None and state.init is InitKind.EMPTY


def test_start_from_a_box_asks_a_segmenter_that_takes_boxes(discs, sample_of):
    sample = sample_of()
    state = Environment(segmenter=discs).start(sample, "box")
    assert discs.calls == [1] and state.box == bounding_box(sample.target) and state.iou == 1.0
    given = Environment(segmenter=discs).start(sample, Box(1, 2, 11, 12))
    assert given.mask.sum() == 100 and given.init_box == Box(1, 2, 11, 12)


def test_start_from_a_box_fills_it_for_a_segmenter_that_takes_clicks_only(discs, sample_of):
    discs.accepts_boxes = False
    sample = sample_of(box=Box(3, 4, 20, 30))
    state = Environment(segmenter=discs).start(sample, InitKind.BOX)
    assert discs.calls == [] and state.box is None
    assert (state.mask == box_to_mask(Box(3, 4, 20, 30), 40, 60)).all()
    after = Environment(segmenter=discs).step(state, Action(click=Click(50, 35)))
    assert after.mask[4:30, 3:20].all() and after.mask[35, 50], "the box is the memory that the click works on"


def test_start_from_random_points_depends_on_the_sample_and_the_seed_alone(discs, sample_of):
    environment = Environment(segmenter=discs, seed=3)
    one, two = environment.start_batch([sample_of(1), sample_of(2)], "random_points")
    again = environment.start(sample_of(2), "random_points")
    other = Environment(segmenter=discs, seed=4).start(sample_of(2), "random_points")
    assert two.init_clicks == again.init_clicks and one.init_clicks != two.init_clicks != other.init_clicks
    box = bounding_box(two.sample.target)
    assert all(box.x0 <= c.x < box.x1 and box.y0 <= c.y < box.y1 for c in two.init_clicks)
    assert two.clicks == (), "the random clicks made the mask; they bind nobody afterwards"
    assert (
        len(
            {
                sum(c.is_positive for c in environment.start(sample_of(k), "random_points").init_clicks)
                for k in range(20)
            }
        )
        > 2
    )


def test_start_from_a_given_mask(discs, sample_of):
    mask = np.zeros((40, 60), bool)
    mask[:5] = True
    state = Environment(segmenter=discs).start(sample_of(), mask)
    assert (Environment(segmenter=discs).step(state, Action(click=Click(30, 30))).mask[:5]).all()
    assert Environment(segmenter=discs).start(sample_of(mask=mask), "mask").mask is mask
    with pytest.raises(ValueError, match=r"'s0': the initial mask is bool \[4, 6\].*bool \[40, 60\]"):
        Environment(segmenter=discs).start(sample_of(), np.zeros((4, 6), bool))
    with pytest.raises(ValueError, match="'s0' has no mask to start from"):
        Environment(segmenter=discs).start(sample_of(), "mask")


def test_starts_that_need_a_target_say_so(discs, sample_of):
    with pytest.raises(ValueError, match="'s0' has neither a box nor a target"):
        Environment(segmenter=discs).start(sample_of(target=None), "box")


def test_a_step_leaves_its_state_alone_and_branches_do_not_meet(discs, sample_of):
    environment = Environment(segmenter=discs)
    root = environment.step(environment.start(sample_of()), Action(click=Click(10, 10)))
    mask, memory = root.mask.copy(), root.memory.copy()
    left = environment.step(root, Action(click=Click(30, 20)))
    right = environment.step(root, Action(click=Click(10, 10, False)))
    again = environment.step(root, Action(click=Click(30, 20)))
    assert (root.mask == mask).all() and (root.memory == memory).all() and len(root.steps) == 1
    assert (left.mask == again.mask).all() and not right.mask.any() and left.clicks != right.clicks


def test_a_batch_of_steps_is_the_steps_one_by_one_in_one_call(discs, sample_of):
    environment = Environment(segmenter=discs)
    samples = [sample_of(0), sample_of(1, size=(30, 90)), sample_of(2)]
    actions = [Action(click=Click(5, 5)), Action(end=EndReason.UNPARSABLE, text="?"), Action(box=Box(1, 1, 9, 9))]
    states = environment.start_batch(samples)
    discs.calls.clear()
    together = environment.step_batch(states, actions)
    assert discs.calls == [2], "one call for the two that move"
    for state, action, after in zip(states, actions, together, strict=True):
        alone = environment.step(state, action)
        assert (alone.mask == after.mask).all() and alone.end_reason == after.end_reason and alone.iou == after.iou


def test_reasons_to_end(discs, sample_of):
    sample = sample_of()
    click = Action(click=Click(*(np.argwhere(sample.target).mean(0)[::-1].astype(int)), True))
    miss = Action(click=Click(59, 0))

    def last(environment, *actions):
        state = environment.start(sample)
        for action in actions:
            state = environment.step(state, action)
        return state.end_reason

    assert last(Environment(segmenter=discs, max_clicks=2), click) is None
    assert last(Environment(segmenter=discs, max_clicks=2), click, miss) is EndReason.OUT_OF_CLICKS
    assert last(Environment(segmenter=discs, tau_stop=0.3), click) is EndReason.FINISHED
    assert last(Environment(segmenter=discs, tau_stop=0.3, min_clicks=2), click) is None
    assert last(Environment(segmenter=discs, patience=1), click, miss) is EndReason.NO_GAIN
    assert last(Environment(segmenter=discs, patience=2), click, miss) is None
    assert last(Environment(segmenter=discs), Action(end=EndReason.UNPARSABLE, text="no")) is EndReason.UNPARSABLE


def test_an_ended_state_takes_no_step(discs, sample_of):
    environment = Environment(segmenter=discs, max_clicks=1)
    state = environment.step(environment.start(sample_of()), Action(click=Click(1, 1)))
    with pytest.raises(ValueError, match="'s0' has ended"):
        environment.step(state, Action(click=Click(2, 2)))


def test_a_good_enough_start_ends_at_once(discs, sample_of):
    sample = sample_of()
    state = Environment(segmenter=discs, tau_stop=0.9).start(sample, sample.target)
    assert state.end_reason is EndReason.FINISHED and to_trajectory(state).final_iou == 1.0


def test_steps_that_gain_too_little_are_marked_and_stay(discs, sample_of):
    sample = sample_of()
    environment = Environment(segmenter=discs, tau_diff=0.0)
    y, x = np.argwhere(sample.target).mean(0).astype(int)
    state = environment.start(sample)
    for action in (Action(click=Click(x, y)), Action(click=Click(59, 0)), Action(click=Click(59, 0, False))):
        state = environment.step(state, action)
    assert [step.kept for step in state.steps] == [True, False, True]
    assert [step.iou_after for step in state.steps][:1] == [iou(decode_rle(state.steps[0].mask), sample.target)]
    assert state.steps[1].iou_before == state.steps[0].iou_after and state.stale == 2


def test_void_pixels_do_not_count(discs, sample_of):
    sample = sample_of()
    void = ~sample.target
    state = Environment(segmenter=discs).start(replace(sample, void=void), np.ones((40, 60), bool))
    assert state.iou == 1.0


def test_without_a_target_there_is_no_iou_and_no_end_by_it(discs, sample_of):
    environment = Environment(segmenter=discs, tau_stop=0.5, patience=1, tau_diff=0.1, max_clicks=3)
    state = environment.step(environment.start(sample_of(target=None)), Action(click=Click(3, 3)))
    assert state.iou is None and state.end_reason is None and state.steps[0].kept


def test_one_picture_is_embedded_once(discs, sample_of):
    samples = [sample_of(0, sample_id=f"s{k}") for k in range(5)] + [sample_of(1)]
    Environment(segmenter=discs).start_batch(samples)
    assert discs.embedded == 2
    Environment(segmenter=discs).start_batch([sample_of(k, image_key=None) for k in range(3)])
    assert discs.embedded == 5, "without a key nothing is known to be equal"


@pytest.mark.parametrize(
    "wrong", [{"max_clicks": 0}, {"tau_stop": 1.5}, {"patience": 0}, {"min_points": 3, "max_points": 2}]
)
def test_unsound_rules_are_refused(discs, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Environment(segmenter=discs, **wrong)


def test_random_numbers_depend_on_the_parts_alone():
    assert stable_generator("a", 1).integers(1 << 30) == stable_generator("a", 1).integers(1 << 30)
    assert stable_generator("a", 1).integers(1 << 30) != stable_generator("a", 11).integers(1 << 30)


class Recorded:
    """Replays the probability maps of a recorded predictor, one per call; the last repeats."""

    accepts_boxes, waives_click_points = False, "recorded"

    def __init__(self, probabilities, threshold):
        self.masks = [map_ > np.float32(threshold) for map_ in probabilities]

    def embed(self, images):
        return list(images)

    def remember(self, embeddings, masks):
        return [0] * len(masks)

    def predict(self, embeddings, clicks, memory, boxes=None):
        call = memory[0] or 0
        return [self.masks[min(call, len(self.masks) - 1)]], [call + 1]


def recorded_cases():
    data = np.load(TRACE)
    cases = json.loads(str(data["cases"]))
    return [(case, data[f"gt_{k}"], data[f"probs_{k}"]) for k, case in enumerate(cases)]


@pytest.mark.parametrize(
    "case, labels, probabilities", recorded_cases(), ids=lambda value: value["name"] if isinstance(value, dict) else ""
)
def test_the_published_recorder_is_reproduced(case, labels, probabilities):
    settings = case["kwargs"]
    environment = Environment(
        segmenter=Recorded(probabilities, settings["pred_thr"]),
        max_clicks=settings["max_clicks"],
        min_clicks=settings["min_clicks"],
        tau_stop=settings["max_iou_thr"],
        patience=1,
        tau_diff=1e-12,
    )
    sample = Sample(
        sample_id="s",
        image=np.zeros((*labels.shape, 3), np.uint8),
        text="cup",
        target=labels == 1,
        void=labels == -1,
        image_name=case["record"]["image_name"],
        object_id=case["record"]["gt_ann"]["object_id"],
    )
    (state,) = finish([environment.start(sample)], Oracle(), environment)
    made = [[int(c.is_positive), c.y, c.x, k] for k, c in enumerate(state.clicks)]
    if case["name"] == "empty_gt_empty_pred":  # there the reference clicks (0, 0) although nothing is wrong
        assert made == [] and state.end_reason is EndReason.FINISHED and case["clicks_made"] == [[0, 0, 0, 0]]
        return
    assert made == case["clicks_made"]
    record, expected = official_record(to_trajectory(state)), case["record"]
    assert record["clicks_list"] == expected["clicks_list"]
    if case["name"] != "label_2":  # there the reference writes a target with a label that it does not count
        captions = expected["gt_ann"].pop("caption")
        assert record["gt_ann"].pop("caption") == "cup" and captions
        assert record["gt_ann"] == expected["gt_ann"]


def test_random_points_are_one_to_six_the_first_one_positive(discs, sample_of):
    environment = Environment(segmenter=discs)
    made = [environment.start(sample_of(k), "random_points").init_clicks for k in range(150)]
    assert {len(clicks) for clicks in made} == set(range(1, 7)) and all(clicks[0].is_positive for clicks in made)
    later = [click.is_positive for clicks in made for click in clicks[1:]]
    assert 0.4 < np.mean(later) < 0.6
    narrow = Environment(segmenter=discs, min_points=2, max_points=2)
    assert {len(narrow.start(sample_of(k), "random_points").init_clicks) for k in range(9)} == {2}
    with pytest.raises(ValueError, match="need 1 <= min_points"):
        Environment(segmenter=discs, min_points=0)


def test_a_box_holds_for_the_clicks_after_it(discs, sample_of):
    given = []
    predict = discs.predict
    discs.predict = lambda e, clicks, memory, boxes: given.append(list(boxes)) or predict(e, clicks, memory, boxes)
    environment, box = Environment(segmenter=discs), Box(2, 2, 20, 20)
    state = environment.step(environment.start(sample_of()), Action(box=box))
    state = environment.step(state, Action(click=Click(30, 30)))
    assert given == [[box], [box]] and state.box == box
    environment.step(state, Action(box=Box(0, 0, 9, 9)))
    assert given[-1] == [Box(0, 0, 9, 9)], "until there is another one"


def test_a_gain_is_over_the_mask_before_and_the_bound_itself_is_enough(discs, sample_of):
    sample = sample_of()
    y, x = np.argwhere(sample.target).mean(0).astype(int)
    first = Environment(segmenter=discs).step(Environment(segmenter=discs).start(sample), Action(click=Click(x, y)))
    assert (
        Environment(segmenter=discs, tau_diff=first.iou)
        .step(Environment(segmenter=discs).start(sample), Action(click=Click(x, y)))
        .steps[0]
        .kept
    )
    environment = Environment(segmenter=discs, tau_diff=0.001)
    state = environment.step(environment.step(first, Action(click=Click(59, 0))), Action(click=Click(59, 0, False)))
    assert state.iou == first.iou == state.best_iou and state.steps[-1].kept, "not over the best one"


def test_void_pixels_come_with_the_trajectory(discs, sample_of):
    void = np.zeros((40, 60), bool)
    void[:3] = True
    state = Environment(segmenter=discs).start(replace(sample_of(), void=void))
    assert (decode_rle(to_trajectory(state).void) == void).all()
    assert to_trajectory(Environment(segmenter=discs).start(sample_of())).void is None


def test_what_an_end_says_of_the_last_mask_is_kept(discs, sample_of):
    environment = Environment(segmenter=discs)
    end = Action(end=EndReason.FINISHED, text="Current IOU: 90, Finish", predicted_iou=0.9)
    made = to_trajectory(environment.step(environment.start(sample_of()), end))
    assert (made.end_text, made.extras) == ("Current IOU: 90, Finish", {"pred_iou": 0.9})
    silent = environment.step(environment.start(sample_of()), Action(end=EndReason.FINISHED))
    assert to_trajectory(silent).extras == {}

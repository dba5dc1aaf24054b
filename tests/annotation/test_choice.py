"""Which mask is the answer."""

from dataclasses import replace

import numpy as np
import pytest

from segagent.annotation import returned, returned_mask, scores
from segagent.annotation.choice import light, returned_iou, returned_score
from segagent.data.formats.base import object_trajectory
from segagent.masks import encode_rle
from segagent.types import Action, Click, InitKind, Step


def trajectory(init, said, last=None, best=None):
    """Three masks of 1, 2 and 3 rows; `said` of the first two."""
    target = np.zeros((4, 5), bool)
    masks = [target.copy() for _ in range(3)]
    for rows, mask in enumerate(masks, 1):
        mask[:rows] = True
    steps = tuple(
        Step(Action(click=Click(0, 0), predicted_iou=one), encode_rle(mask), iou_after=0.1 * number)
        for number, (one, mask) in enumerate(zip(said, masks[1:], strict=True), 1)
    )
    extras = {} if best is None else {"returned": best, "pred_iou": last}
    start = object_trajectory(masks[0], sample_id="s", image_name="s.png", text="thing")
    return replace(start, init=init, init_mask=encode_rle(masks[0]), init_iou=0.0, steps=steps, extras=extras)


@pytest.mark.parametrize(
    "init, said, last, best, expected",
    [
        (InitKind.EMPTY, (0.2, 0.5), None, None, 2),  # no search: the last one
        (InitKind.EMPTY, (0.2, 0.5), 0.4, 1, 1),
        (InitKind.MASK, (0.2, 0.5), 0.4, 1, 1),
        (InitKind.MASK, (0.5, 0.5), 0.4, 1, 0),  # as good is not better
        (InitKind.MASK, (0.6, 0.5), 0.4, 1, 0),  # worse
        (InitKind.MASK, (None, 0.5), 0.9, 2, 0),  # nothing is known of what was given
        (InitKind.MASK, (0.2, 0.5), None, 2, 0),  # or of what came of it
        (InitKind.MASK, (0.2, 0.5), None, None, 0),
    ],
)
def test_a_given_mask_stays_unless_another_one_is_judged_better(init, said, last, best, expected):
    one = trajectory(init, said, last, best)
    assert scores(one) == [*said, last]
    assert returned(one) == expected
    assert returned_mask(one).sum() == 5 * (expected + 1)
    assert returned_score(one) == [*said, last][expected]
    assert returned_iou(one) == pytest.approx(0.1 * expected)


@pytest.mark.parametrize("init", [InitKind.EMPTY, InitKind.MASK])
@pytest.mark.parametrize("best", [None, 0, 1, 2])
def test_what_is_kept_of_a_trajectory_gives_the_same_answers_with_one_mask(init, best):
    whole = trajectory(init, (0.2, 0.5), 0.9, best)
    whole = replace(whole, extras=whole.extras | {"candidates": [[1, 2, 3]]})
    kept = light(whole)
    assert scores(kept) == scores(whole) and returned(kept) == returned(whole)
    assert np.array_equal(returned_mask(kept), returned_mask(whole))
    assert (returned_score(kept), returned_iou(kept)) == (returned_score(whole), returned_iou(whole))
    assert sum(bool(step.mask) for step in kept.steps) == (returned(whole) > 0)
    assert "candidates" not in kept.extras and kept.init_mask == whole.init_mask and kept.text == whole.text


def test_a_box_is_no_mask_that_was_given():
    one = trajectory(InitKind.BOX, (None, 0.5), 0.9, 1)
    assert returned(one) == 1, "though nothing was said of the start"

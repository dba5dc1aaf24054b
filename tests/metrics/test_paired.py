"""Two runs side by side: differences, their intervals, ties, and the samples that changed most."""

import numpy as np
import pytest

from segagent.masks import encode_rle
from segagent.metrics import score
from segagent.metrics.paired import biggest_changes, compare, differences, pair


def bar(length):
    mask = np.zeros((10, 20), bool)
    mask[:, :length] = True
    return encode_rle(mask)


def pairs_of(first, second):
    """Samples of pictures of their own, whose target is 10 columns wide and whose masks are as wide as is said."""

    def record(index, length):
        item = {"click_id": 0, "clicks": None, "used_box": None, "mask": bar(length), "outputs": ""}
        facts = {"img_path": f"{index}.jpg", "height": 10, "width": 20, "caption": ["thing"], "click_id": 0}
        return {**facts, "masks": None, "gt_mask": bar(10), "pred_list": [item]}

    runs = [[record(index, length) for index, length in enumerate(run)] for run in (first, second)]
    keys = [f"s{index}" for index in range(len(first))]
    return pair(tuple(score(run, bootstrap=0) for run in runs), (keys, keys))


VARIED = pairs_of([1, 2, 3, 4, 5, 6, 7, 8], [3, 1, 4, 1, 5, 9, 2, 6])


def test_intervals_hold_95_of_100_differences():
    found = compare(VARIED, margin=0.01, resamples=400, seed=0)
    drawn = differences(VARIED, 400, 0)[:, 0]
    assert [found["ciou_low"], found["ciou_high"]] == pytest.approx(np.percentile(drawn, [2.5, 97.5]))


def test_what_is_drawn_follows_from_the_seed():
    assert (differences(VARIED, 50, 3) == differences(VARIED, 50, 3)).all()
    assert (differences(VARIED, 50, 3) != differences(VARIED, 50, 4)).any()


def test_a_change_by_the_margin_is_a_tie():
    assert compare(pairs_of([5], [7]), margin=0.2 + 1e-9, resamples=0, seed=0)["ties"] == 1
    found = compare(pairs_of([4, 4, 8], [4, 9, 4]), margin=0.0, resamples=0, seed=0)
    assert found["ties"] == 1, "none has changed there"


def test_what_has_not_changed_is_no_big_change():
    assert biggest_changes(pairs_of([5, 5, 5], [9, 5, 5]), 6).tolist() == [0]

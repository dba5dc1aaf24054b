"""Which masks are flagged, and what precision that promises."""

import numpy as np
import pytest

from segagent.annotation.suspicion import find_suspicious
from segagent.policies.calibration import Calibration

RULES = {"bad_iou": 0.75, "precision": 0.9, "threshold": None}


def judged(count, seed, share_bad):
    """Predicted and true IoU of masks, a share of which is bad."""
    random = np.random.default_rng(seed)
    true = np.where(random.random(count) < share_bad, random.uniform(0, 0.7, count), random.uniform(0.8, 1, count))
    return np.clip(true + random.normal(0, 0.06, count), 0, 1), true


@pytest.mark.parametrize("precision", [0.6, 0.9, 0.99])
def test_the_promised_precision_is_kept_on_other_masks_of_the_kind(precision):
    calibration = Calibration.fit(*judged(4000, 0, 0.3))
    predicted, true = judged(4000, 1, 0.3)
    calibrated = np.array([calibration(one) for one in predicted])
    found = find_suspicious(calibrated, calibration=calibration, **{**RULES, "precision": precision})
    bad = true < 0.75
    assert found.expected_precision >= precision
    assert bad[found.flagged].mean() == pytest.approx(found.expected_precision, abs=0.03)
    assert found.flagged[bad].mean() > 0.9
    rest = np.sort(calibrated[~found.flagged])
    assert rest[0] > found.threshold, "all of the lowest, and equal ones together"


def test_ranks_the_lowest_first_and_what_was_not_judged_last():
    predicted = np.array([0.5, np.nan, 0.2, 0.5, 0.9])
    found = find_suspicious(predicted, calibration=None, **RULES)
    assert found.order.tolist() == [2, 0, 3, 4, 1]
    assert not found.flagged.any() and found.threshold is None and found.expected_precision is None
    given = find_suspicious(predicted, calibration=None, **{**RULES, "threshold": 0.6})
    assert given.flagged.tolist() == [True, False, True, True, False] and given.threshold == 0.5


def test_nothing_is_flagged_where_nothing_is_bad():
    calibration = Calibration.fit(np.linspace(0, 1, 50), np.full(50, 0.95))
    found = find_suspicious(np.array([0.1, 0.9]), calibration=calibration, **RULES)
    assert not found.flagged.any() and found.chances.tolist() == [0, 0]
    none = find_suspicious(np.full(2, np.nan), calibration=calibration, **RULES)
    assert not none.flagged.any() and np.isnan(none.chances).all()
    assert find_suspicious(np.zeros(0), calibration=calibration, **RULES).order.size == 0


def test_what_is_predicted_just_at_the_threshold_is_not_under_it():
    found = find_suspicious(np.array([0.6, 0.7]), calibration=None, bad_iou=0.75, precision=0.9, threshold=0.7)
    assert found.flagged.tolist() == [True, False]


def test_equal_predictions_are_flagged_together_or_not_at_all():
    """0.2: bad for sure; 0.5: bad at 0.8. Two of them would still keep a mean of 0.9, all four do not."""
    pairs = [[0.2, 0.0], *[[0.5, 0.0]] * 4, [0.5, 1.0]]
    calibration = Calibration([0.0, 1.0], [0.0, 1.0], pairs=pairs)
    found = find_suspicious(
        np.array([0.2, 0.5, 0.5, 0.5]), calibration=calibration, bad_iou=0.75, precision=0.9, threshold=None
    )
    assert found.flagged.tolist() == [True, False, False, False] and found.expected_precision >= 0.9


def test_a_threshold_goes_before_a_calibration_which_says_what_to_expect_of_it():
    calibration = Calibration([0.0, 1.0], [0.0, 1.0], pairs=[[0.2, 0.0], [0.5, 1.0]])
    found = find_suspicious(np.array([0.2, 0.5, 0.9]), calibration=calibration, **{**RULES, "threshold": 0.6})
    assert found.flagged.tolist() == [True, True, False] and found.threshold == 0.5
    assert found.expected_precision == found.chances[:2].mean() == 0.5


def test_as_many_are_flagged_as_keep_the_mean_just_at_the_precision():
    """0.2: bad for sure; 0.5: bad at 0.8."""
    pairs = [[0.2, 0.0], *[[0.5, 0.0]] * 4, [0.5, 1.0]]
    calibration = Calibration([0.0, 1.0], [0.0, 1.0], pairs=pairs)
    found = find_suspicious(np.array([0.2, 0.5]), calibration=calibration, **RULES)
    assert found.flagged.all() and found.expected_precision == 0.9

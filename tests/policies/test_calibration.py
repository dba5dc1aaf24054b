"""Isotonic calibration and the reliability curve."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression

from segagent.policies.calibration import Calibration, reliability

PAIRS = st.lists(st.tuples(st.integers(0, 100), st.floats(0, 1, width=32)), min_size=1, max_size=40)


@given(PAIRS)
def test_distinct_predictions_are_fitted_as_scipy_does(pairs):
    pairs = sorted({x: y for x, y in pairs}.items())
    x, y = np.array([x for x, _ in pairs]) / 100, np.array([y for _, y in pairs])
    fitted, expected = Calibration.fit(x, y), isotonic_regression(y).x
    pool = np.unique(expected.round(9), return_inverse=True)[1]
    centres = np.array([x[pool == one].mean() for one in range(pool.max() + 1)])
    levels = np.array([expected[pool == one].mean() for one in range(pool.max() + 1)])
    np.testing.assert_allclose([fitted(one) for one in centres], levels, atol=1e-6)


@given(PAIRS, st.randoms())
def test_equal_predictions_are_one_point_in_whatever_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    fits = [Calibration.fit([x / 100 for x, _ in one], [y for _, y in one]) for one in (pairs, shuffled)]
    np.testing.assert_allclose(fits[0].predicted, fits[1].predicted, atol=1e-9)
    np.testing.assert_allclose(fits[0].true, fits[1].true, atol=1e-9)
    places = np.unique([x for x, _ in pairs])
    groups = [[y for x, y in pairs if x == one] for one in places]
    expected = isotonic_regression([np.mean(ys) for ys in groups], weights=[len(ys) for ys in groups]).x
    ends = [fits[0](places[k] / 100) for k in (0, -1)]  # where no other pool has a say
    np.testing.assert_allclose(ends, [expected[0], expected[-1]], atol=1e-6)


@given(PAIRS)
def test_it_never_falls_and_stays_in_range(pairs):
    calibration = Calibration.fit([x / 100 for x, _ in pairs], [y for _, y in pairs])
    values = [calibration(one) for one in np.linspace(0, 1, 60)]
    assert (np.diff(values) >= 0).all() and 0 <= values[0] <= values[-1] <= 1


def test_an_overconfident_model_is_brought_down_to_what_it_is_worth(tmp_path):
    random = np.random.default_rng(0)
    predicted = random.random(4000).round(2)
    true = predicted**2 + random.normal(0, 0.05, 4000)
    calibration = Calibration.fit(predicted, np.clip(true, 0, 1))
    assert calibration(0.5) == pytest.approx(0.25, abs=0.03) and calibration(0.9) == pytest.approx(0.81, abs=0.03)
    calibration.save(tmp_path / "c.json")
    again = Calibration.load(tmp_path / "c.json")
    assert [again(one) for one in (0, 0.3, 1)] == [calibration(one) for one in (0, 0.3, 1)]


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no such calibration; evaltools/filtering.py"),
        ("[", "not a calibration"),
        ('{"predicted": [0.1]}', "not a calibration"),
        ('{"predicted": [0.2, 0.1], "true": [0, 1]}', "rising predicted"),
        ('{"predicted": [10, 90], "true": [10, 90]}', "not in percent"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "c.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=rf"c\.json: .*{message}"):
        Calibration.load(path)


def test_the_probability_of_a_good_mask_comes_from_the_pairs(tmp_path):
    random = np.random.default_rng(0)
    predicted = random.random(3000)
    true = np.clip(predicted**2 + random.normal(0, 0.05, 3000), 0, 1)
    Calibration.fit(predicted, true, "expected").save(tmp_path / "c.json")
    again = Calibration.load(tmp_path / "c.json")
    assert again.number == "expected" and again.pairs.shape == (3000, 2)
    reaching = again.reaching(0.5)
    assert reaching(again(0.5**0.5)) == pytest.approx(0.5, abs=0.15)
    assert reaching(again(0.2)) < 0.02 and reaching(again(0.95)) > 0.98
    with pytest.raises(ValueError, match=r"holds no pairs .* fit it anew"):
        Calibration([0, 1], [0, 1]).reaching(0.5)


def test_nothing_to_fit_is_refused():
    with pytest.raises(ValueError, match="0 predicted and 0 true"):
        Calibration.fit([], [])


def test_reliability_by_hand():
    curve = reliability(np.array([0.05, 0.15, 0.19, 1.0]), np.array([0.0, 0.4, 0.2, 0.9]), bins=5)
    assert curve["reliability_n"] == [3, 0, 0, 0, 1]
    assert curve["reliability_predicted"] == [pytest.approx(0.13), None, None, None, 1.0]
    assert curve["reliability_true"] == [pytest.approx(0.2), None, None, None, 0.9]


def test_a_bound_that_is_reached_exactly_is_reached():
    assert Calibration.fit([0.2, 0.8], [0.5, 0.75]).reaching(0.75)(0.75) == 1

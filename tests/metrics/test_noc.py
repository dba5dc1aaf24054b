"""Clicks needed, by hand."""

import numpy as np
import pytest

from segagent.metrics.noc import clicks_needed, iou_curves, mean_interval


def test_the_first_click_at_a_level_counts_and_the_limit_where_there_is_none():
    curves = iou_curves([[0.5, 0.82, 0.95], [0.91], [0.1, 0.86, 0.2, 0.3], [0.2]], 4)
    assert curves.shape == (4, 4) and curves[1].tolist() == [0.91] * 4
    needed, reached = clicks_needed(curves, 85)
    assert needed.tolist() == [3, 1, 2, 4] and reached.tolist() == [True, True, True, False]
    assert iou_curves([], 4).shape == (0, 4)


def test_the_interval_holds_the_mean_and_shrinks_with_more_samples():
    values = np.random.default_rng(0).normal(3, 1, 400)
    alone = np.arange(400)
    low, high = mean_interval(values, alone)
    assert low < values.mean() < high and 0.15 < high - low < 0.25, "2 * 1.96 / sqrt(400) = 0.196"
    assert mean_interval(values, alone) == (low, high) and mean_interval(np.full(5, 2.0), np.arange(5)) == (2, 2)


def test_values_of_one_picture_are_drawn_together():
    """Four equal values a picture say no more than one."""
    values = np.random.default_rng(0).normal(3, 1, 100)
    once = mean_interval(values, np.arange(100))
    assert mean_interval(np.repeat(values, 4), np.repeat(np.arange(100), 4)) == pytest.approx(once)

"""Figures of a validation, by hand and against a real predictor."""

import numpy as np
import pytest

from segagent.metrics.noc import iou_curves
from segagent.training.segmenter_validation import SegmenterValidation, figures_of
from segagent.training.vit_init import fresh_network


def test_clicks_needed_and_curve_by_hand():
    figures = figures_of(iou_curves([[0.5, 0.82, 0.95], [0.91], [0.1, 0.86, 0.2, 0.3]], 4))
    assert figures.noc == {80: (2 + 1 + 2) / 3, 85: (3 + 1 + 2) / 3, 90: (3 + 1 + 4) / 3}
    assert figures.iou_by_click == pytest.approx(
        [np.mean([0.5, 0.91, 0.1]), np.mean([0.82, 0.91, 0.86]), np.mean([0.95, 0.91, 0.2]), np.mean([0.95, 0.91, 0.3])]
    )
    worse = figures_of(iou_curves([[0.5, 0.5], [0.2, 0.2]], 2))
    better = figures_of(iou_curves([[0.5, 0.6], [0.2, 0.2]], 2))
    assert better.score < worse.score, "while no level is reached, more IoU is better"


def test_a_network_is_judged_by_its_clicks(small):
    samples = [small.Rectangles()[index] for index in range(3)]
    validation = SegmenterValidation(samples=samples, max_clicks=3, batch_size=2, predictor={"min_crop_size": 16})
    network = fresh_network(small.config, 0)
    curves = validation.curves(network)
    assert curves.shape == (3, 3) and (curves >= 0).all() and (curves <= 1).all()
    one_by_one = SegmenterValidation(samples=samples, max_clicks=3, batch_size=1, predictor={"min_crop_size": 16})
    assert np.array_equal(curves, one_by_one.curves(network))
    shares = [validation.curves(network, (rank, 4)) for rank in range(4)]
    assert [len(share) for share in shares] == [1, 1, 1, 0], "a process may be left without a sample"
    assert np.array_equal(curves, np.concatenate(shares))
    with pytest.raises(ValueError, match="no samples to validate on"):
        SegmenterValidation(samples=[], predictor={})

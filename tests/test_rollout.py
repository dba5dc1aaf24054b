import json

import numpy as np
import pytest

from segagent.data.trajectories import trajectory_to_json
from segagent.environment import Environment
from segagent.policies.simulated import Center, NoisyOracle, Oracle
from segagent.rollout import rollout
from segagent.types import EndReason


def rolled(dataset, discs, policy=None, **settings):
    environment = Environment(segmenter=discs, max_clicks=6, tau_stop=0.95)
    batches = list(rollout(dataset, policy=policy or NoisyOracle(), environment=environment, **settings))
    return [json.dumps(trajectory_to_json(trajectory)) for batch in batches for trajectory in batch], batches


@pytest.mark.parametrize("init", ["empty", "box", "random_points"])
def test_the_batch_size_changes_nothing_but_the_number_of_calls(discs, dataset_of, init):
    dataset = dataset_of(11)
    alone, _ = rolled(dataset, discs, init=init, batch_size=1)
    calls_alone = len(discs.calls)
    discs.calls.clear()
    together, batches = rolled(dataset, discs, init=init, batch_size=4)
    assert together == alone and [len(batch) for batch in batches] == [4, 4, 3]
    assert len(discs.calls) < calls_alone / 2 and max(discs.calls) == 4


def test_every_trajectory_ends_for_a_reason_and_in_order(discs, dataset_of):
    _, batches = rolled(dataset_of(9), discs, Oracle(), batch_size=4)
    trajectories = [trajectory for batch in batches for trajectory in batch]
    assert [t.sample_id for t in trajectories] == [f"s{k}" for k in range(9)]
    assert {t.end_reason for t in trajectories} <= {EndReason.FINISHED, EndReason.OUT_OF_CLICKS}
    assert all(t.steps[0].iou_after > 0 for t in trajectories)


def test_a_short_policy_ends_before_the_others(discs, dataset_of):
    _, batches = rolled(dataset_of(3), discs, Center(), batch_size=3)
    assert [len(t.steps) for t in batches[0]] == [1, 1, 1]


def test_a_picture_is_embedded_once_for_all_its_descriptions(discs, dataset_of):
    dataset = dataset_of(10, image_key="one picture")
    same = dataset[0].image
    assert not np.array_equal(same, dataset[1].image)  # the stand-in does not look at pixels, only at the key
    rolled(dataset, discs, batch_size=3)
    assert discs.embedded == 1


def test_seconds_are_recorded_only_when_asked_for(discs, dataset_of):
    assert all(t.seconds is None for t in rolled(dataset_of(2), discs)[1][0])
    _, batches = rolled(dataset_of(4), discs, batch_size=4, record_seconds=True)
    assert len({t.seconds for t in batches[0]}) == 1 and batches[0][0].seconds > 0


def test_a_batch_needs_a_sample(discs, dataset_of):
    with pytest.raises(ValueError, match="batch_size=0"):
        rolled(dataset_of(2), discs, batch_size=0)


def test_a_whole_dataset_is_streamed(discs, dataset_of):
    """The first batch is there before the second one is loaded."""
    loaded = []

    def samples():
        for sample in dataset_of(6):
            loaded.append(sample.sample_id)
            yield sample

    batches = rollout(samples(), policy=Oracle(), environment=Environment(segmenter=discs), batch_size=2)
    next(batches)
    assert loaded == ["s0", "s1"]

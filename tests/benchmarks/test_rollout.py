"""When the benchmark calls two loops' trajectories equal."""

import json


def line(x, log_prob):
    return json.dumps({"sample_id": "a", "steps": [{"click": {"x": x}, "log_prob": log_prob}]})


def test_rounding_of_a_log_probability_is_told_apart_from_another_click(benchmark_file):
    agreement = benchmark_file("rollout").agreement

    assert agreement([line(3, -1.5)], [line(3, -1.5)]) == {"equal": True, "log_prob": 0}
    assert agreement([line(3, -1.5)], [line(3, -1.25)]) == {"equal": True, "log_prob": 0.25}
    assert agreement([line(3, -1.5)], [line(4, -1.5)]) == {"equal": False, "log_prob": None}
    assert agreement([line(3, -1.5)], [line(3, -1.5)] * 2)["equal"] is False
    assert agreement([line(3, None)], [line(3, None)]) == {"equal": True, "log_prob": None}

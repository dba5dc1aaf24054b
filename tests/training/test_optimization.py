"""Layer-wise rates and the schedule."""

from itertools import pairwise

import pytest

from segagent.training.optimization import OptimizerSettings, build_optimizer, learning_rate, set_learning_rate
from segagent.training.vit_init import fresh_network


def test_each_layer_has_its_rate_and_every_parameter_is_in_one_group(small):
    network = fresh_network(small.config, 0)
    settings = OptimizerSettings(lr=1.0, layer_decay=0.5, weight_decay=0.1)
    optimizer = build_optimizer(network, settings)
    set_learning_rate(optimizer, 2.0)
    rates, decays = {}, {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert parameter not in rates
            rates[parameter], decays[parameter] = group["lr"], group["weight_decay"]
    named = dict(network.named_parameters())
    assert set(rates) == set(named.values())
    wanted = {
        "backbone.patch_embed.proj.weight": 2 / 32,
        "backbone.pos_embed": 2 / 32,
        "backbone.blocks.0.mlp.fc1.weight": 2 / 16,
        "backbone.blocks.3.norm1.bias": 2 / 2,
        "patch_embed_coords.proj.weight": 2,
        "neck.down_4.0.weight": 2,
        "detail.logits.weight": 2,
    }
    assert {name: rates[named[name]] for name in wanted} == wanted
    assert decays[named["backbone.blocks.0.mlp.fc1.weight"]] == 0.1
    assert decays[named["backbone.blocks.0.mlp.fc1.bias"]] == decays[named["backbone.pos_embed"]] == 0


def test_the_rate_rises_then_falls_to_its_floor():
    settings = OptimizerSettings(lr=1.0, warmup=4, min_lr=0.1)
    rates = [learning_rate(step, 24, settings) for step in range(25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[14] == pytest.approx(0.55) and rates[24] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))
    assert learning_rate(0, 5, OptimizerSettings(lr=1.0, warmup=0)) == 1.0


@pytest.mark.parametrize(
    "wrong, message",
    [({"lr": 0.0}, "lr=0.0: a number above 0"), ({"layer_decay": 1.2}, "a share in"), ({"warmup": -1}, "0 or more")],
)
def test_unsound_settings_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**wrong)

"""Muon beside AdamW: who gets which weights, what an update is, and that a run goes on where it was."""

from dataclasses import replace

import pytest
import torch

from segagent.dialogue import load_dialogue
from segagent.mllm.osprey import Osprey
from segagent.mllm.parts import part_of
from segagent.mllm.testing import TINY_NANO, WORDS
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.training import muon
from segagent.training.muon import Muon, MuonAndAdamW, orthogonalized
from segagent.training.optimization import set_learning_rate
from segagent.training.sft_network import build_sft_optimizer
from segagent.training.sft_settings import SftSettings


def parts_of(mllm, **settings):
    optimizer = build_sft_optimizer(mllm.network, SftSettings(steps=1, optimizer="muon", **settings))
    set_learning_rate(optimizer, 0.5)
    return optimizer, {type(part): part for part in optimizer.parts}


def test_matrices_of_the_decoders_layers_are_muons_and_each_weight_has_its_rate(sft):
    mllm = sft.mllm()
    _, parts = parts_of(mllm, vision_lr=0.25, weight_decay=0.1)
    given = {
        parameter: (kind, group["lr"], group["weight_decay"])
        for kind, part in parts.items()
        for group in part.param_groups
        for parameter in group["params"]
    }
    named = dict(mllm.network.named_parameters())
    assert sum(len(group["params"]) for part in parts.values() for group in part.param_groups) == len(named)
    for name, parameter in named.items():
        inner = part_of(name) == "language" and ".layers." in name and parameter.ndim == 2
        rate, decay = 0.125 if part_of(name) == "vision" else 0.5, 0.1 if parameter.ndim > 1 else 0.0
        assert given[parameter] == (Muon if inner else torch.optim.AdamW, rate, decay), name
    assert {kind for kind, *_ in given.values()} == {Muon, torch.optim.AdamW}


def test_all_directions_of_a_matrix_move_alike_and_as_far_as_adamw_would():
    torch.manual_seed(0)
    matrix = torch.nn.Parameter(torch.zeros(40, 60))
    optimizer = MuonAndAdamW([{"params": [matrix], "weight_decay": 0.0}], [], lr=0.1, betas=(0.9, 0.99))
    matrix.grad = torch.randn(40, 60) * torch.logspace(0, -2, 40)[:, None]  # directions a hundred times as weak
    optimizer.step()
    moved = torch.linalg.svdvals(matrix.detach())
    # Liu et al., section 2.2: 0.2 sqrt(max(rows, columns)); the iteration leaves singular values near 1.
    assert moved.max() < 1.3 * 0.1 * 0.2 * 60**0.5 and moved.min() > 0.5 * 0.1 * 0.2 * 60**0.5
    assert float(matrix.detach().pow(2).mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.25)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
@pytest.mark.parametrize("rounded", [True, False])
def test_an_update_is_that_of_torch_in_the_precision_of_the_device(shape, rounded, monkeypatch):
    """torch's own computes in bfloat16 everywhere."""
    monkeypatch.setattr(muon, "computes_bfloat16", lambda device: rounded)
    torch.manual_seed(1)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    one = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.1)
    other = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        ours.grad = theirs.grad = torch.randn(shape)
        one.step()
        other.step()
    apart = (ours - theirs).detach().norm() / (1 - theirs).detach().norm()
    assert (apart == 0) if rounded else (0 < apart < 0.02)


def test_a_state_of_torchs_own_is_gone_on_with():
    torch.manual_seed(0)
    convolution = torch.nn.Parameter(torch.randn(6, 4, 3, 3))
    matrix = torch.nn.Parameter(convolution.detach().flatten(1).clone())
    theirs = torch.optim.Muon([matrix], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    matrix.grad = torch.randn(6, 36)
    theirs.step()
    ours = Muon([{"params": [convolution], "weight_decay": 0.0}], lr=0.1)
    ours.load_state_dict({**ours.state_dict(), "state": theirs.state_dict()["state"]})
    convolution.grad = torch.zeros(6, 4, 3, 3)
    before = convolution.detach().clone()
    ours.step()
    kept = ours.state[convolution]["momentum_buffer"]
    assert torch.allclose(kept.flatten(1), 0.95 * 0.05 * matrix.grad) and not torch.equal(convolution, before)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
def test_in_float32_singular_values_end_near_one(shape, monkeypatch):
    monkeypatch.setattr(muon, "computes_bfloat16", lambda device: False)
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(shape)))
    assert 0.6 < values.min() and values.max() < 1.25


def test_the_inner_convolutions_of_a_tower_are_muons_too():
    config = replace(TINY_NANO, tower="convolutional", tower_dims=[8, 16], tower_depths=[1, 2])
    tokenizer = WordTokenizer.of(load_dialogue("nano"), WORDS)
    mllm = Osprey.new(config, tokenizer, dialogue="nano", device="cpu")
    _, parts = parts_of(mllm, vision_lr=0.25, weight_decay=0.1)
    inner = [group for group in parts[Muon].param_groups if group["lr"] == 0.125]
    assert [tuple(weight.shape) for group in inner for weight in group["params"]] == [(16, 8, 3, 3), (16, 16, 3, 3)]
    assert {group["weight_decay"] for group in inner} == {0.1}
    plain = [weight for group in parts[torch.optim.AdamW].param_groups for weight in group["params"]]
    assert any(weight is mllm.network.tower.stages[0][0][0].weight for weight in plain), "what reads the pixels"
    every = sum(len(group["params"]) for part in parts.values() for group in part.param_groups)
    assert every == len(list(mllm.network.parameters()))


def test_a_convolution_is_moved_as_the_matrix_of_its_rows():
    torch.manual_seed(0)
    convolution = torch.nn.Parameter(torch.randn(6, 4, 3, 3))
    matrix = torch.nn.Parameter(convolution.detach().flatten(1).clone())
    one, other = (
        MuonAndAdamW([{"params": [weight], "weight_decay": 0.1}], [], lr=0.1, betas=(0.9, 0.99))
        for weight in (convolution, matrix)
    )
    for step in range(4):
        if step == 2:  # as `network.to(device)` does
            convolution.data = convolution.data.clone()
        if step == 3:
            convolution.data = convolution.data.to(memory_format=torch.channels_last)
        convolution.grad = torch.randn(6, 4, 3, 3)
        matrix.grad = convolution.grad.flatten(1).clone()
        before = convolution.detach().clone()
        one.step()
        other.step()
        assert torch.equal(convolution.flatten(1), matrix) and not torch.equal(convolution, before)
        one.zero_grad()
        assert convolution.grad is None


def test_killed_and_resumed_is_bitwise_the_same_and_not_what_adamw_makes(sft, tmp_path):
    whole = sft.trainer(tmp_path / "whole", optimizer="muon", validation=False)
    whole.run()
    sft.trainer(tmp_path / "cut", optimizer="muon", validation=False).run(stop_at=4)
    resumed = sft.trainer(tmp_path / "cut", optimizer="muon", validation=False)
    resumed.run(resume=True)
    other = sft.trainer(tmp_path / "adamw", validation=False)
    other.run()
    inner = "language.model.layers.0.self_attn.q_proj.weight"
    wanted, got = whole.mllm.network.state_dict(), resumed.mllm.network.state_dict()
    assert all(torch.equal(value, got[name]) for name, value in wanted.items())
    assert not torch.equal(wanted[inner], other.mllm.network.state_dict()[inner])


def test_the_state_of_another_optimizer_is_refused(sft):
    mllm = sft.mllm()
    plain = build_sft_optimizer(mllm.network, SftSettings(steps=1))
    optimizer, _ = parts_of(mllm)
    with pytest.raises(ValueError, match=r"state of another optimizer; resume with what it began with"):
        optimizer.load_state_dict(plain.state_dict())


def test_a_rate_holds_after_a_state_was_loaded(sft):
    mllm = sft.mllm()
    optimizer, _ = parts_of(mllm)
    optimizer.load_state_dict(optimizer.state_dict())
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for part in optimizer.parts for group in part.param_groups} == {0.125}


def test_a_closure_is_asked_for_the_loss():
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = MuonAndAdamW([], [{"params": [weight]}], lr=0.1, betas=(0.9, 0.99))

    def closure():
        loss = (weight**2).sum()
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) == 2.0 and float(weight.detach()[0]) < 1

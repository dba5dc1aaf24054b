"""What a tower with batch norm counts: kept with the trained weights, and left alone where the tower is frozen."""

from dataclasses import replace

import torch

from segagent.data.refshapes import description_words
from segagent.dialogue import load_dialogue
from segagent.mllm.osprey import Osprey
from segagent.mllm.testing import TINY_NANO
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.training.sft_network import load_trained_state, prepare_network, trained_state
from segagent.training.sft_settings import SftSettings


def nano(seed=0):
    config = replace(TINY_NANO, tower="convolutional", tower_dims=[8, 16], tower_depths=[1, 2])
    return Osprey.new(
        config, WordTokenizer.of(load_dialogue("nano"), description_words()), dialogue="nano", seed=seed, device="cpu"
    )


def test_counts_are_kept_with_what_is_trained():
    first, second = nano().network.train(), nano(seed=1).network
    size = first.config.image_size
    first.tower(torch.rand(4, 3, size, size))
    state = trained_state(first)
    assert any(name.endswith("running_mean") and bool(value.any()) for name, value in state.items())
    load_trained_state(second, state)
    pixels = torch.rand(2, 3, size, size)
    assert torch.equal(first.eval().tower(pixels), second.eval().tower(pixels))


def test_a_folder_holds_them(tmp_path):
    mllm = nano()
    size = mllm.network.config.image_size
    mllm.network.train().tower(torch.rand(4, 3, size, size))
    mllm.save(tmp_path)
    read = Osprey.from_checkpoint(tmp_path, device="cpu").network.eval()
    pixels = torch.rand(2, 3, size, size)
    assert torch.equal(mllm.network.eval().tower(pixels), read.tower(pixels))


def test_a_frozen_tower_does_not_go_on_counting():
    network = nano().network
    network.tower.requires_grad_(False)
    before = {name: value.clone() for name, value in network.tower.named_buffers()}
    network.train()
    network.tower(torch.rand(4, 3, network.config.image_size, network.config.image_size))
    assert network.training and not network.tower.training
    assert all(torch.equal(value, before[name]) for name, value in network.tower.named_buffers())


def test_what_a_norm_counts_is_as_precise_as_its_weights(tmp_path):
    """A checkpoint that is loaded as bfloat16, as on CUDA, and then trained."""
    nano().save(tmp_path)
    for frozen in ([], ["vision"]):
        mllm = Osprey.from_checkpoint(tmp_path, device="cpu", dtype="bfloat16")
        prepare_network(mllm, SftSettings(steps=1, frozen=frozen, precision="float32"))
        kinds = {value.dtype for value in mllm.network.tower.state_dict().values() if value.is_floating_point()}
        assert kinds == {torch.float32}
        size = mllm.network.config.image_size
        mllm.network.train().visual_tokens(torch.rand(2, 3, size, size))


def test_fixed_positions_are_not_trained():
    for positions, trained in (("sinusoidal", False), ("learnt", True)):
        config = replace(TINY_NANO, positions=positions)
        tokenizer = WordTokenizer.of(load_dialogue("nano"), description_words())
        mllm = Osprey.new(config, tokenizer, dialogue="nano", device="cpu")
        prepare_network(mllm, SftSettings(steps=1))
        assert mllm.network.positions.requires_grad is trained

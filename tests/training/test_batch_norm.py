"""What a tower with batch norm counts: kept with the trained weights, and left alone where the tower is frozen."""

from dataclasses import replace

import torch

from segagent.data.refshapes import description_words
from segagent.dialogue import load_dialogue
from segagent.mllm.osprey import Osprey
from segagent.mllm.testing import TINY_NANO
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.training.sft_network import load_trained_state, trained_state


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

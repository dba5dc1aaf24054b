"""Which of the things that a description mentions a cell shows, and the loss that asks visual tokens for it."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from segagent.configuration import compose_config
from segagent.data.refshapes import RefShapes, description_words
from segagent.dialogue import load_dialogue
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey import Osprey
from segagent.mllm.testing import TINY_NANO
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.training.asked_cells import asking_layers
from segagent.training.cell_mentions import KINDS, CellMentions, SceneMentions
from segagent.training.collate import Collator
from segagent.training.generated_states import GeneratedStates
from segagent.training.sft_data import with_generated
from segagent.training.sft_settings import SftSettings
from segagent.training.sft_setup import auxiliary_losses
from segagent.training.visual_words import NOTHING

NANO = load_dialogue("nano")
NETWORK = dataclasses.replace(TINY_NANO, depth=4)


def pictures():
    return RefShapes(subset="refshapesg", split="train", size=128)


def nano():
    return Osprey.new(NETWORK, WordTokenizer.of(NANO, description_words()), dialogue="nano", device="cpu")


def batch_of(mllm, count=8):
    grid, dataset = mllm.network.config.grid, pictures()
    states = GeneratedStates(dataset=dataset, dialogue=NANO, mentions=SceneMentions(dataset, grid), relations=1.0)
    return Collator(mllm)([states[number] for number in range(count)])


def test_cells_show_what_is_meant_and_what_it_leans_on():
    dataset, told = pictures(), 0
    mentions = SceneMentions(dataset, 8)
    for index in range(0, 40, 2):
        things, shown = dataset.scene(index).things, mentions.words.things(index)
        names = [(thing.color, thing.noun) for thing in things]
        alone = [number for number, name in enumerate(names) if names.count(name) == 1]
        if len(alone) < 3:
            continue
        told += 1
        target, first, second = alone[:3]
        color, noun = names[first]
        other_color, other_noun = names[second]
        text = f"the {things[target].noun} above the {color} {noun} and beside the {other_color} {other_noun}"
        meant, one, another = mentions(index, text)
        seen = shown != NOTHING
        for row in (meant, one, another):
            assert ((row == NOTHING) == ~seen).all()
        assert (meant[seen] == [things[number].noun == things[target].noun for number in shown[seen]]).all()
        assert (one[seen] == (shown[seen] == first)).all() and (another[seen] == (shown[seen] == second)).all()
        # Two that lean on nothing: by color and pattern, and where nobody can say which is meant.
        meant, one, another = mentions(index, f"{things[target].pattern} {color} thing")
        like = [(thing.pattern, thing.color) == (things[target].pattern, color) for thing in things]
        assert (meant[seen] == np.array(like)[shown[seen]]).all() and not one[seen].any() and not another[seen].any()
        meant, one, _ = mentions(index, f"the {noun} above the thing")
        assert not one[seen].any(), "several things are one"
    assert told >= 5


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match=r"list does not know what its pictures show"):
        SceneMentions([], 8)
    with pytest.raises(ValueError, match=r"cannot read 'the cat' at 'cat'"):
        SceneMentions(pictures(), 8)(0, "the cat")
    with pytest.raises(ValueError, match=r"train.mentions: is for nano and its like, not for str"):
        CellMentions("another")


def test_mentions_are_learnt_early_in_the_decoder():
    torch.manual_seed(0)
    mllm = nano()
    loss, batch = CellMentions(mllm), batch_of(mllm)
    assert batch.mentions.shape == (8, KINDS, mllm.network.config.grid**2) and (batch.mentions == 1).any(2).any(0).all()
    optimizer = torch.optim.Adam(mllm.network.parameters(), lr=3e-3)
    made = []
    for _ in range(30):
        mllm.network(**batch.tensors)
        value = loss(mllm.network, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        made.append(value.item())
    assert made[-1] < 0.6 * made[0]
    layers = mllm.network.language.model.layers
    asked = asking_layers(len(layers))[0]
    touched = [any(weight.grad is not None for weight in layer.parameters()) for layer in layers]
    assert touched == [number <= asked for number in range(len(layers))]


def test_the_setting_brings_the_loss_and_what_it_reads():
    mllm = nano()
    for mentions, wanted in ((0.0, {}), (0.7, {"mentions": mllm.network.config.grid})):
        settings = SftSettings(steps=1, mentions=mentions)
        losses, cells = auxiliary_losses(mllm, NANO, settings)
        assert cells == wanted and [(weight, type(loss)) for weight, loss in losses] == (
            [(mentions, CellMentions)] if mentions else []
        )
    config = compose_config(
        "train", ["mllm=nano", "train=nano", "data=refshapes", "data.trajectories=null", "generated.share=1", "out=x"]
    )
    states = with_generated(config, NANO, None, mentions=8)
    index, sample = states._sample(0, 0)
    assert np.array_equal(states[0].mentions, SceneMentions(states.dataset, 8)(index, sample.text))
    assert with_generated(config, NANO, None)[0].mentions is None


def test_a_token_that_knows_is_right():
    mllm = nano()
    loss, batch = CellMentions(mllm), batch_of(mllm)
    image = batch.tensors["input_ids"] == IMAGE_TOKEN
    told = []
    for mentions in (batch.mentions, 1 - batch.mentions.clamp(min=0)):
        signs = torch.where(mentions == 1, 1.0, -1.0).transpose(1, 2)
        knows = torch.zeros(*image.shape, mllm.network.config.width)
        knows[image] = 4 * (signs @ loss.cells.directions).flatten(0, 1)
        loss.cells.hidden = knows
        told.append(loss(mllm.network, batch).item())
    assert told[0] < told[1] - 1
    loss.cells.hidden = knows
    nothing = dataclasses.replace(batch, mentions=torch.full_like(batch.mentions, NOTHING))
    assert loss(mllm.network, nothing).item() == 0


def test_what_is_mentioned_is_asked_before_what_is_needed_and_an_answer_has_layers_left():
    asked = [asking_layers(depth) for depth in range(2, 33)]
    assert all(0 <= first <= second < depth - 1 for depth, (first, second) in enumerate(asked, 2))
    assert all(first < second for first, second in asked[2:])
    assert all(before <= after for before, after in pairwise(asked))

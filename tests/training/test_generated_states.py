"""Fresh states of generated pictures, and the loss that asks every visual token what its cell needs."""

import dataclasses
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segagent.data.mixture import Mixture
from segagent.data.refshapes import RefShapes, description_words, grammar, meaning
from segagent.dialogue import load_dialogue
from segagent.masks import error_regions, iou
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey import Osprey
from segagent.mllm.testing import TINY_NANO
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.training.cell_needs import CellNeeds
from segagent.training.cell_shares import PARTS, cell_needs, click_cells
from segagent.training.click_gaze import ClickGaze
from segagent.training.collate import IGNORED, Collator
from segagent.training.generated_states import Alternating, GeneratedStates
from segagent.types import Click

NANO = load_dialogue("nano")


def pictures(**changes):
    return RefShapes(**{"subset": "refshapes", "split": "train", "size": 128} | changes)


def mixture():
    return Mixture(datasets={"a": pictures(), "b": pictures(subset="refshapes-thin")})


def nano():
    return Osprey.new(TINY_NANO, WordTokenizer.of(NANO, description_words()), dialogue="nano", device="cpu")


def test_a_further_question_is_about_the_same_picture_and_true():
    dataset = pictures()
    asked = [dataset.ask(index, turn) for index in range(4) for turn in range(4)]
    again = [pictures().ask(index, turn) for index in range(4) for turn in range(4)]
    assert [one.text for one in asked] == [one.text for one in again]
    assert len({(one.image_key, one.text) for one in asked}) > 10
    assert len({one.sample_id for one in asked}) == len(asked)
    for place, one in enumerate(asked):
        scene = dataset.scene(place // 4)
        meant = meaning.denotes(grammar.parse(one.text), scene)
        assert np.array_equal(one.image, scene.image) and np.array_equal(one.target, scene.mask(meant))
        assert one.category == scene.things[meant].noun and one.object_id.endswith(f"/{meant}")
    mixed = mixture().ask(3, 2)
    assert mixed.sample_id == "b/refshapes-thin/train/0/000001/2"
    assert mixed.text == pictures(subset="refshapes-thin").ask(1, 2).text
    with pytest.raises(ValueError, match=r"data 'a': its pictures are not generated"):
        Mixture(datasets={"a": [1, 2]}).ask(0, 0)


def test_states_are_of_all_kinds_and_answers_are_the_annotators():
    states = GeneratedStates(dataset=pictures(), dialogue=NANO, grid=8, seed=3)
    empty = elsewhere = ends = 0
    for number in range(120):
        made = states[number]
        sample, reply = made.sample, NANO.parse(made.answer, width=128, height=128)
        true = iou(made.mask, sample.target, None)
        assert reply.predicted_iou == pytest.approx(true, abs=0.006)
        missing, surplus = error_regions(sample.target, made.mask, None)
        if reply.finished:
            ends += 1
            assert not (missing | surplus).any()
        else:
            assert (missing if reply.click.is_positive else surplus)[reply.click.y, reply.click.x]
        empty += not made.mask.any()
        elsewhere += bool(made.mask.any() and true < 0.01)
    assert 30 <= empty <= 66 and elsewhere >= 5
    assert states[7].answer == GeneratedStates(dataset=pictures(), dialogue=NANO, seed=3)[7].answer
    assert [states[k].answer for k in range(9)] != [
        GeneratedStates(dataset=pictures(), dialogue=NANO, seed=4)[k].answer for k in range(9)
    ]
    assert pickle.loads(pickle.dumps(states))[5].answer == states[5].answer, "workers get it"


def test_unsound_settings_are_refused():
    with pytest.raises(ValueError, match=r"list has no generated pictures"):
        GeneratedStates(dataset=[], dialogue=NANO)
    for wrong, said in (({"empty": 1.5}, "generated.empty=1.5"), ({"questions": 0}, "generated.questions=0")):
        with pytest.raises(ValueError, match=said):
            GeneratedStates(dataset=pictures(), dialogue=NANO, **wrong)
    with pytest.raises(ValueError, match=r"generated.share=1.0: above 0 and below 1"):
        Alternating([], GeneratedStates(dataset=pictures(), dialogue=NANO), 1.0)


def test_two_sources_take_turns_and_nothing_of_either_is_left_out():
    generated = GeneratedStates(dataset=pictures(), dialogue=NANO, seed=3)
    trajectories = [dataclasses.replace(generated[k], answer=f"t{k}") for k in range(6)]
    both = Alternating(trajectories, generated, 0.4)
    made = [both[k] for k in range(10)]
    assert len(both) == 10 and [one.number for one in made] == list(range(10))
    assert [one.answer for one in made if one.answer.startswith("t")] == [f"t{k}" for k in range(6)]
    assert [one.answer for one in made if not one.answer.startswith("t")] == [generated[k].answer for k in range(4)]


def learnt(mllm, loss, batch):
    """25 steps on one batch; the loss of each."""
    optimizer = torch.optim.Adam(mllm.network.parameters(), lr=3e-3)
    made = []
    for _ in range(25):
        mllm.network(**batch.tensors)
        value = loss(mllm.network, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        made.append(value.item())
    return made


def test_needs_are_shares_of_the_cells():
    target, mask = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    target[:4, :6] = True
    mask[:4, 2:] = True
    parts = cell_needs(target, mask, 2)
    needs = parts.mean(-1).reshape(4, 2, 2)
    assert np.allclose(needs[:, 0, 0], [0.5, 0, 0.5, 0]) and np.allclose(needs[:, 0, 1], [0, 0.5, 0.5, 0])
    assert np.allclose(needs[:, 1], [[0, 0], [0, 0], [0, 0], [1, 1]])
    assert np.allclose(parts[0, 0].reshape(4, 4), [[1, 1, 0, 0]] * 4), "the left half of the first cell is missing"
    assert np.allclose(parts[1, 1].reshape(4, 4), [[0, 0, 1, 1]] * 4) and not parts[0, 1].any()


def test_the_words_of_the_actions_are_four():
    mllm = nano()
    tokens = CellNeeds(mllm, NANO).tokens
    assert len(set(tokens)) == 4 and mllm.tokenizer.unknown not in tokens
    with pytest.raises(ValueError, match=r"train.needs: is for nano and its like, not for str"):
        CellNeeds("another", NANO)


def test_what_a_cell_needs_is_learnt_from_the_middle_of_the_decoder():
    mllm = nano()
    loss = CellNeeds(mllm, NANO)
    grid = mllm.network.config.grid
    states = GeneratedStates(dataset=pictures(), dialogue=NANO, grid=grid, seed=3)
    batch = Collator(mllm)([states[k] for k in range(8)])
    assert batch.needs.shape == (8, 4, grid**2, PARTS**2)
    assert torch.allclose(batch.needs.sum(1), torch.ones(8, grid**2, PARTS**2))
    made = learnt(mllm, loss, batch)
    whole, asked = batch.needs.mean(-1), batch.needs[:, :2]
    floor = -(whole * whole.clamp(min=1e-9).log()).sum()  # shares that are told exactly
    floor += F.binary_cross_entropy(asked, asked, reduction="sum") / PARTS**2
    floor = floor.item() / whole[:, :-1].sum().item()
    assert made[-1] - floor < 0.6 * (made[0] - floor)
    turned = dataclasses.replace(batch, needs=batch.needs.flip(-1))  # the same cells, other parts of them
    image = batch.tensors["input_ids"] == IMAGE_TOKEN
    knows = torch.zeros(*image.shape, mllm.network.config.width)
    knows[image] = (2 * asked.transpose(1, 2).flatten(0, 1).flatten(1) - 1) @ loss.directions
    told = []
    for told_of in (batch, turned):
        loss._hidden = knows
        told.append(loss(mllm.network, told_of).item())
    assert told[0] < told[1] - 0.5, "where in the cell it is counts; without it both are alike"
    last = mllm.network.language.model.layers[-1]
    mllm.network(**batch.tensors)
    mllm.network.zero_grad()
    loss(mllm.network, batch).backward()
    assert all(parameter.grad is None for parameter in last.parameters()), "the last layer is for the answer"
    assert (batch.tensors["input_ids"] == IMAGE_TOKEN).sum() == 8 * grid**2


def test_a_click_lies_between_the_centres_of_four_cells():
    cells = click_cells(Click(39, 19), (40, 80), 4).reshape(4, 4)  # cells of 10 x 20; the click's centre: 39.5, 19.5
    assert np.allclose(cells[1, 1], 0.55 * 0.525) and np.allclose(cells[1, 2], 0.55 * 0.475)
    assert np.allclose(cells[2, 1], 0.45 * 0.525) and np.allclose(cells.sum(), 1)
    corner = click_cells(Click(0, 0), (40, 80), 4).reshape(4, 4)
    assert corner[0, 0] == 1 and click_cells(Click(79, 39), (40, 80), 4)[-1] == 1
    assert not click_cells(None, (40, 80), 4).any()


def test_an_answer_learns_to_look_at_its_click():
    mllm = nano()
    loss = ClickGaze(mllm, NANO)
    grid = mllm.network.config.grid
    states = GeneratedStates(dataset=pictures(), dialogue=NANO, grid=grid, seed=3)
    examples = [states[k] for k in range(8)]
    batch = Collator(mllm)(examples)
    rows, places, axes = loss._coordinates(batch.labels)
    for number, example in enumerate(examples):
        following = batch.labels[number, places[rows == number] + 1].tolist()
        click = NANO.parse(example.answer, width=128, height=128).click
        written = "" if click is None else example.answer.split("point: (")[1]
        assert mllm.tokenizer.decode(following) == written
        first = [token for token, axis in zip(following, axes[rows == number], strict=True) if axis == 0]
        assert mllm.tokenizer.decode(first) == written.partition(",")[0]
        assert batch.places[number].sum() == pytest.approx(float(click is not None))
    made = learnt(mllm, loss, batch)
    assert made[-1] < 0.7 * made[0]
    mllm.network(**batch.tensors)
    (layer,) = loss._weights
    right = torch.zeros_like(loss._weights[layer])
    image = batch.tensors["input_ids"] == IMAGE_TOKEN
    for row, place, axis in zip(rows, places, axes, strict=True):
        right[row, axis, place, image[row]] = batch.places[row]
    asked = batch.places[rows]
    least = -(asked * (asked + 1e-6).log()).sum().item() / len(rows)
    for weights, exact in ((right, True), (right.flip(1), False)):  # a head for each coordinate, and the other one
        loss._weights = {layer: weights}
        assert (loss(mllm.network, batch).item() == pytest.approx(least, abs=1e-4)) is exact
    mllm.network(**batch.tensors)
    nowhere = {"answer": "Finish", "places": np.zeros(grid**2, np.float32)}
    told = Collator(mllm)([dataclasses.replace(example, **nowhere) for example in examples])
    mllm.network(**told.tensors)
    assert float(loss(mllm.network, told)) == 0
    with pytest.raises(ValueError, match=r"train.gaze: is for nano and its like, not for str"):
        ClickGaze("another", NANO)


def test_further_digits_count_less_where_that_is_asked_for():
    mllm = nano()
    made = GeneratedStates(dataset=pictures(), dialogue=NANO, empty=1.0, seed=3)
    examples = [made[k] for k in range(3)]
    alike, less = Collator(mllm)(examples), Collator(mllm, 0.5)(examples)
    assert torch.equal(alike.token_weights(), (alike.labels != IGNORED).float())
    for row in range(3):
        learnt = less.labels[row] != IGNORED
        texts = [mllm.tokenizer.texts[token] for token in less.labels[row][learnt]]
        weights = dict.fromkeys(range(len(texts)), 1.0)
        for first in [place for place, text in enumerate(texts) if text.endswith(("(", ", ", "IOU: "))]:
            weights |= {first + 1: 1.0, first + 2: 0.5, first + 3: 0.25}
        assert less.token_weights()[row][learnt].tolist() == [weights[place] for place in range(len(texts))]
    with pytest.raises(ValueError, match=r"train.digit_decay=0.5: the tokens of SimpleNamespace are no digits"):
        Collator(SimpleNamespace(tokenizer=None, network=mllm.network), 0.5)

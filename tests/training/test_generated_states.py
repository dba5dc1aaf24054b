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
from segagent.masks import error_regions, iou, next_click
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.osprey import Osprey
from segagent.mllm.testing import TINY_NANO
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.training.cell_needs import CellNeeds
from segagent.training.cell_points import BINS, bin_losses, deepest_points, region_depths
from segagent.training.cell_shares import cell_needs, click_cells
from segagent.training.cell_targets import CellTargets
from segagent.training.click_gaze import ClickGaze
from segagent.training.collate import IGNORED, Collator
from segagent.training.generated_states import Alternating, GeneratedStates
from segagent.training.mask_noise import perturbed
from segagent.types import Box, Click

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


def test_hidden_pictures_are_passed_over():
    dataset = pictures(limit=8)
    names = [dataset[index].image_name for index in range(8)]
    states = GeneratedStates(dataset=dataset, dialogue=NANO, hidden={names[0], names[5]}, weight=2.0, seed=3)
    made = [states[number] for number in range(16)]
    assert {one.sample.image_name for one in made} == set(names) - {names[0], names[5]}
    assert {one.weight for one in made} == {2.0}
    with pytest.raises(ValueError, match="no generated picture is left to learn from"):
        GeneratedStates(dataset=dataset, dialogue=NANO, hidden=names)[0]


def test_void_pixels_need_nothing():
    target, mask, void = np.zeros((16, 16), bool), np.zeros((16, 16), bool), np.zeros((16, 16), bool)
    target[:8], mask[8:], void[8:] = True, True, True
    asked = CellTargets.of(target, mask, None, 4, void)
    assert asked.needs[1].sum() == 0 and asked.needs[0].sum() > 0, "nothing is surplus that does not count"
    assert (asked.points[1, :, 2] == 0).all()


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


def test_questions_that_take_a_relation_are_looked_for():
    dataset = pictures(subset="refshapesg")

    def told(states):
        """How many of the questions leave several things without their relation or order."""
        count = 0
        for number in range(60):
            index, sample = states._sample(number // 3, number % 3)
            scene, phrase = dataset.scene(index), grammar.parse(sample.text)
            assert np.array_equal(sample.target, scene.mask(meaning.denotes(phrase, scene)))
            assert np.array_equal(sample.image, scene.image)
            bare = grammar.Phrase(noun=phrase.noun, color=phrase.color, pattern=phrase.pattern)
            like = [all(part) for part in (meaning._facts(bare, k, scene) for k in range(len(scene.things)))]
            count += sum(like) > 1 and bool(phrase.relations or phrase.rank)
        return count

    def of(**changes):
        return GeneratedStates(dataset=dataset, dialogue=NANO, questions=3, **changes)

    rare, often = told(of()), told(of(relations=1.0))
    assert rare < 20 and often > 2 * rare and often > 30
    assert [one.sample.text for one in map(of(relations=1.0).__getitem__, range(9))] == [
        of(relations=1.0)[number].sample.text for number in range(9)
    ]
    with pytest.raises(ValueError, match=r"generated.relations=2: a share in \[0, 1\]"):
        of(relations=2)


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
    needs = cell_needs(target, mask, 2).reshape(4, 2, 2)
    assert np.allclose(needs[:, 0, 0], [0.5, 0, 0.5, 0]) and np.allclose(needs[:, 0, 1], [0, 0.5, 0.5, 0])
    assert np.allclose(needs[:, 1], [[0, 0], [0, 0], [0, 0], [1, 1]])


def test_the_deepest_point_of_a_picture_is_the_annotators_click():
    random = np.random.default_rng(0)
    for size in (32, 48, 64):
        for _ in range(5):
            region = perturbed(np.pad(np.ones((size // 2,) * 2, bool), size // 4), None, random)
            click = next_click(region, np.zeros_like(region))
            x, y, depth = deepest_points(region_depths(region)[None], 1)[0, 0]
            assert (x, y) == (int(click.x * BINS / size + 0.05), int(click.y * BINS / size + 0.05))
            assert depth * size == pytest.approx(region_depths(region)[click.y, click.x])


def test_the_deepest_point_of_each_cell_is_found():
    dataset = pictures()
    target = dataset[0].target
    grid, depths = 4, region_depths(target)
    points = deepest_points(np.stack([depths, 0 * depths]), grid)
    assert not points[1].any() and points[0].any()
    side = target.shape[0] // grid
    for cell, (x, y, depth) in enumerate(points[0]):
        part = depths.reshape(grid, side, grid, side).swapaxes(1, 2).reshape(-1, side, side)[cell]
        down, across = np.unravel_index(part.argmax(), part.shape)
        assert depth == pytest.approx(part.max() / side)
        assert (x, y) == ((across * BINS // side, down * BINS // side) if part.any() else (0, 0))


def test_a_neighbouring_bin_is_less_wrong_than_a_far_one():
    points = torch.tensor([[4.0, 7.0, 1.0]])
    losses = []
    for x in (4, 5, 9):
        logits = torch.zeros(1, 2, BINS)
        logits[0, 0, x], logits[0, 1, 7] = 5, 5
        losses.append(bin_losses(logits.flatten(1), points).item())
    assert losses[0] < losses[1] < losses[2]


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
    asked = batch.asked
    assert asked.needs.shape == (8, 4, grid**2) and torch.allclose(asked.needs.sum(1), torch.ones(8, grid**2))
    assert asked.points.shape == (8, 2, grid**2, 3) and asked.places.shape == (8, 2, grid**2)
    made = learnt(mllm, loss, batch)
    floor = -(asked.needs * asked.needs.clamp(min=1e-9).log()).sum()  # shares that are told exactly
    floor = floor.item() / asked.needs[:, :-1].sum().item()
    assert made[-1] - floor < 0.6 * (made[0] - floor)
    last = mllm.network.language.model.layers[-1]
    mllm.network(**batch.tensors)
    mllm.network.zero_grad()
    loss(mllm.network, batch).backward()
    assert all(parameter.grad is None for parameter in last.parameters()), "the last layer is for the answer"
    assert (batch.tensors["input_ids"] == IMAGE_TOKEN).sum() == 8 * grid**2


@pytest.mark.parametrize("part", ["places", "points"])
def test_where_the_click_is_counts(part):
    mllm = nano()
    loss = CellNeeds(mllm, NANO)
    states = GeneratedStates(dataset=pictures(), dialogue=NANO, grid=mllm.network.config.grid, seed=3)
    batch = Collator(mllm)([states[k] for k in range(8)])
    asked = batch.asked
    if part == "places":
        codes = asked.places.transpose(1, 2) @ loss.cells.directions[:2]
        other = dataclasses.replace(asked, places=asked.places.roll(1, -1))
    else:  # one of BINS for each axis of each sign
        bins = F.one_hot(asked.points[..., :2].long(), BINS).transpose(1, 2).flatten(2).float()
        codes = bins @ loss.cells.directions[2:]
        other = dataclasses.replace(
            asked, points=(asked.points + torch.tensor([3.0, 0, 0])) % torch.tensor([10, 10, 9])
        )
    image = batch.tensors["input_ids"] == IMAGE_TOKEN
    knows = torch.zeros(*image.shape, mllm.network.config.width)
    knows[image] = 4 * codes.flatten(0, 1)
    told = []
    for targets in (asked, other):
        loss.cells.hidden = knows
        told.append(loss(mllm.network, dataclasses.replace(batch, asked=targets)).item())
    assert told[0] < told[1] - 0.5


def test_a_click_is_in_one_cell():
    cells = click_cells(Click(39, 19), (40, 80), 4).reshape(2, 4, 4)  # cells of 10 x 20
    assert cells[0, 1, 1] == 1 and cells.sum() == 1
    assert click_cells(Click(79, 39, is_positive=False), (40, 80), 4)[1, -1] == 1
    assert not click_cells(None, (40, 80), 4).any()


def test_an_answer_learns_where_to_look():
    mllm = nano()
    loss = ClickGaze(mllm, NANO)
    loss.heads = 3  # as if there were so many
    grid = mllm.network.config.grid
    states = GeneratedStates(dataset=pictures(), dialogue=NANO, grid=grid, seed=3)
    examples = [states[k] for k in range(8)]
    batch = Collator(mllm)(examples)
    queries = loss.queries(batch.labels)
    rows, places, heads = queries
    asked = loss.wanted(batch, queries)
    for number, example in enumerate(examples):
        following, told = batch.labels[number, places[rows == number] + 1], heads[rows == number]
        of = {head: mllm.tokenizer.decode(following[told == head].tolist()) for head in range(3)}
        reply = NANO.parse(example.answer, width=128, height=128)
        assert of[2] == str(round(100 * reply.predicted_iou))
        written = example.answer.partition(", ")[2] if reply.click else ""
        assert of[0].strip(", ") + of[1] == written
        assert batch.asked.places[number].sum() == float(reply.click is not None)
        held = batch.asked.needs[number, :3].sum(0)
        assert torch.allclose(asked[(rows == number) & (heads == 2)][0], held / held.sum())
        right = asked[(rows == number) & (heads == 2)][0] @ (batch.asked.needs[number, 2] / held.clamp(min=1e-9))
        assert right.item() == pytest.approx(iou(example.mask, example.sample.target), abs=0.01)
    loss.heads = mllm.network.config.heads
    made = learnt(mllm, loss, batch)
    least = -(asked * (asked + 1e-6).log()).sum().item() / len(asked)
    assert made[-1] - least < 0.7 * (made[0] - least)
    mllm.network(**batch.tensors)
    (layer,) = loss._weights
    image = batch.tensors["input_ids"] == IMAGE_TOKEN
    looked = torch.zeros(len(image), 3, *loss._weights[layer].shape[2:])
    for number, (row, place, head) in enumerate(zip(rows, places, heads, strict=True)):
        looked[row, head, place, image[row]] = asked[number]
    loss.heads = 3
    for weights, exact in ((looked, True), (looked.flip(1), False)):  # each its own head, and another one
        loss._weights = {layer: weights}
        assert (loss(mllm.network, batch).item() == pytest.approx(least, abs=1e-4)) is exact
    box = NANO.format_box(Box(10, 20, 90, 100), width=128, height=128)
    for answer in ("Finish", box):  # neither a click nor an IoU
        told = Collator(mllm)([dataclasses.replace(example, answer=answer) for example in examples])
        mllm.network(**told.tensors)
        assert float(loss(mllm.network, told)) == 0
    with pytest.raises(ValueError, match=r"train.gaze: is for nano and its like, not for str"):
        ClickGaze("another", NANO)
    mllm.tokenizer = object()
    with pytest.raises(ValueError, match=r"train.gaze: asks for tokens that are digits"):
        ClickGaze(mllm, NANO)


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


def test_the_weight_of_a_task_is_that_of_its_tokens():
    made = GeneratedStates(dataset=pictures(), dialogue=NANO, seed=3)
    batch = Collator(nano())([made[0], dataclasses.replace(made[1], weight=2.0)])
    for row, weight in enumerate((1, 2)):
        assert set(batch.token_weights()[row][batch.labels[row] != IGNORED].tolist()) == {weight}


def test_pixels_of_the_picture_as_the_model_sees_it_are_generated_too():
    dialogue = load_dialogue("absolute")
    made = GeneratedStates(
        dataset=pictures(), dialogue=dialogue, empty=1.0, seen=lambda *, width, height: (64, 32), seed=3
    )
    target = made[0].sample.target
    click = dialogue.parse(made[0].answer, width=128, height=128, seen=(64, 32)).click
    near = target[max(0, click.y - 4) : click.y + 5, max(0, click.x - 2) : click.x + 3]
    assert near.any(), made[0].answer

"""Trajectories -> examples and batches: what is learnt from a state, in which order, and what is refused before."""

import dataclasses
from itertools import chain

import numpy as np
import pytest
import torch

from segagent.data.refshapes import RefShapes
from segagent.data.trajectories import TrajectoryWriter, read_trajectories
from segagent.dialogue import Dialogue, load_dialogue
from segagent.environment import Environment, to_trajectory
from segagent.improvement.rounds import chosen_samples
from segagent.masks import bounding_box, decode_rle, encode_rle, error_regions, iou, next_click
from segagent.policies.simulated import Oracle
from segagent.rollout import rollout
from segagent.training.collate import BatchPlan, Collator
from segagent.training.examples import Examples, TaskMix, mask_of_state
from segagent.training.mask_noise import perturbed
from segagent.training.trajectory_index import TASKS, iou_of_state, read_states


def examples_of(sft, tasks, held_out=0, **changes):
    dialogue = changes.pop("dialogue", load_dialogue("nano"))
    mix = TaskMix(**{**dict.fromkeys(TASKS, 0.0), **tasks})
    states = read_states([sft.file], sft.dataset, dialogue, tasks=mix.names)
    learnt, _ = states.split(held_out)
    return Examples(
        states=learnt, paths=[sft.file], dataset=sft.dataset, dialogue=dialogue, tasks=mix, **{"seed": 1} | changes
    )


def test_each_task_says_what_the_trajectory_knows(sft):
    dialogue = load_dialogue("nano")
    for task in TASKS:
        examples = examples_of(sft, {task: 1.0})
        for number in range(len(examples)):
            made, row = examples[number], examples.row(number)
            trajectory, state = examples.trajectory(row), int(examples.states.state[row])
            size = {"width": trajectory.width, "height": trajectory.height}
            reply = dialogue.parse(made.answer, **size)
            assert made.task == task
            if task == "perturbed":
                assert reply.predicted_iou == pytest.approx(iou(made.mask, made.sample.target), abs=0.006)
                continue
            assert np.array_equal(made.mask, mask_of_state(trajectory, state))
            told = task in ("iou_click", "iou", "finish")
            assert (reply.predicted_iou is not None) == told
            assert not told or reply.predicted_iou == pytest.approx(iou_of_state(trajectory, state), abs=0.006)
            if task in ("click", "iou_click"):
                assert reply.click == trajectory.steps[state].action.click
            assert (reply.box == bounding_box(made.sample.target)) == (task == "box")
            assert reply.finished == (task == "finish")
            assert made.open == (task == "iou"), "only a bare IoU may be followed by more"


def test_the_picture_shown_has_the_mask_on_it_and_nothing_of_the_target(sft):
    examples = examples_of(sft, {"iou_click": 1.0})
    made = examples[0]
    untouched = np.where(made.mask[..., None], 0, made.observation.image)
    assert np.array_equal(untouched, np.where(made.mask[..., None], 0, made.sample.image))


def test_every_state_comes_once_an_epoch_and_the_order_follows_from_the_seed(sft):
    examples, again = examples_of(sft, {"iou_click": 1.0, "iou": 1.0}), examples_of(sft, {"iou_click": 1.0, "iou": 1.0})
    count = len(examples)
    epochs = [[examples.row(number) for number in range(e * count, (e + 1) * count)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(count)) and epochs[0] != epochs[1]
    assert [examples[n].answer for n in (5, 2, count)] == [again[n].answer for n in (5, 2, count)]
    other = examples_of(sft, {"iou_click": 1.0, "iou": 1.0}, seed=2)
    assert [other.row(number) for number in range(count)] != epochs[0]


def test_tasks_are_mixed_by_weight(sft):
    examples = examples_of(sft, {"iou_click": 3.0, "perturbed": 1.0})
    drawn = [examples.tasks.draw(0b100010, np.random.default_rng(k)) for k in range(400)]
    assert set(drawn) == {"iou_click", "perturbed"} and 0.68 < drawn.count("iou_click") / 400 < 0.82
    assert {examples.tasks.draw(0b100000, np.random.default_rng(k)) for k in range(9)} == {"perturbed"}


def test_wrong_masks_are_of_every_quality(sample_of):
    ious = []
    for number in range(150):
        sample = sample_of(number)
        mask = perturbed(sample.target, None, np.random.default_rng(number))
        assert mask.shape == sample.target.shape and mask.dtype == bool
        ious.append(iou(mask, sample.target))
    counts, _ = np.histogram(ious, bins=5, range=(0, 1))
    assert counts.min() >= 10, counts


def test_perturbed_clicks_correct_the_mask_that_is_shown(sft):
    examples = examples_of(sft, {"perturbed": 1.0})
    for number in range(10):
        made = examples[number]
        click = examples.dialogue.parse(made.answer, width=made.sample.width, height=made.sample.height).click
        if click is not None:
            missing, surplus = error_regions(made.sample.target, made.mask)
            assert (missing if click.is_positive else surplus)[click.y, click.x]


def test_held_out_trajectories_share_no_picture_with_the_others(sft, capsys):
    states = read_states([sft.file], sft.dataset, load_dialogue("nano"), tasks=["iou_click"])
    learnt, kept = states.split(2)
    assert len(learnt) + len(kept) == len(states) and len(set(kept.trajectory)) == 2
    assert not set(learnt.picture) & set(kept.picture)
    fewer, fifth = states.split(100)
    assert len(set(fifth.trajectory)) == 1 and not set(fewer.picture) & set(fifth.picture)
    assert "validation.limit=100: of 8 trajectories, the last 1 are held out" in capsys.readouterr().err
    alone = states.rows(states.trajectory == 0)
    with pytest.raises(ValueError, match=r"validation.limit=100: the trajectories held out leave none"):
        alone.split(100)


def test_of_a_limit_the_first_trajectories_are_read(sft):
    whole = read_states([sft.file, sft.file], sft.dataset, load_dialogue("nano"), tasks=["iou_click"])
    part = read_states([sft.file, sft.file], sft.dataset, load_dialogue("nano"), tasks=["iou_click"], limit=9)
    assert set(part.trajectory) == set(range(9)) and set(whole.trajectory) == set(range(16))
    assert (part.offset == whole.rows(whole.trajectory < 9).offset).all()
    with pytest.raises(ValueError, match="limit=0: give a whole number"):
        read_states([sft.file], sft.dataset, load_dialogue("nano"), tasks=["iou_click"], limit=0)


def test_all_that_is_wrong_is_told_at_once_and_before(sft, tmp_path):
    dialogue = load_dialogue("nano")
    broken = tmp_path / "broken.jsonl"
    lines = sft.file.read_text().splitlines()
    broken.write_text("\n".join([lines[0].replace('"s0"', '"s99"'), lines[1].replace('"s1"', '"s98"'), "{}"]) + "\n")
    with pytest.raises(ValueError) as caught:
        read_states([broken], sft.dataset, dialogue, tasks=["iou"])
    assert "(3 problems)" in str(caught.value) and "'s99': data has no such picture" in str(caught.value)
    assert "'s98': data has" in str(caught.value) and "broken.jsonl, line 3: key 'height' is missing" in str(
        caught.value
    )
    with pytest.raises(ValueError, match=r"a.jsonl: no such file\n.*b.jsonl: no such file"):
        read_states([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], sft.dataset, dialogue, tasks=["iou"])
    with pytest.raises(ValueError, match=r"trajectories, none with a state to learn iou from \(min_final_iou=1.1\)"):
        read_states([sft.file], sft.dataset, dialogue, tasks=["iou"], min_final_iou=1.1)
    with pytest.raises(ValueError, match=r"tasks.iou_click: this dialogue announces no IoU; set tasks.iou_click=0"):
        examples_of(sft, {"iou_click": 1.0, "click": 1.0}, dialogue=Dialogue(system="", prompt="{description}"))
    with pytest.raises(ValueError, match="all weights are 0"):
        TaskMix(iou_click=0, iou=0, perturbed=0)


def test_pictures_that_are_not_there_are_all_listed(sft, tmp_path):
    class Files(list):
        sample_id = type(sft.dataset).sample_id

        def picture_path(self, index):
            return tmp_path / f"{index}.png"

    with pytest.raises(ValueError) as caught:
        read_states([sft.file], Files(sft.dataset), load_dialogue("nano"), tasks=["iou"])
    assert all(f"{index}.png: no such picture" in str(caught.value) for index in range(len(sft.dataset)))


def test_replies_of_another_dialogue_are_refused(sft, tmp_path):
    environment = Environment(segmenter=sft.discs, max_clicks=1)
    state = environment.start(sft.dataset[0])
    action = Oracle().propose([state])[0][0]
    said = load_dialogue("released_qwen").format(width=60, height=40, click=action.click)
    state = environment.step(state, dataclasses.replace(action, text=said))
    path = tmp_path / "other.jsonl"
    with TrajectoryWriter(path) as writer:
        writer.write([to_trajectory(state)])
    with pytest.raises(ValueError, match=r"the reply 'Positive point: .* is of another dialogue"):
        read_states([path], sft.dataset, load_dialogue("nano"), tasks=["iou"])
    assert len(read_states([path], sft.dataset, load_dialogue("released_qwen"), tasks=["click"])) == 1


def test_a_picture_of_another_size_is_refused(sft, dataset_of):
    examples = examples_of(sft, {"iou_click": 1.0})
    examples.dataset = dataset_of(len(sft.dataset), size=(30, 60))
    with pytest.raises(ValueError, match=r"the picture is \[30, 60\], its trajectory says \[40, 60\]"):
        examples[0]


def test_what_cells_need_asks_for_a_target(sft, tmp_path):
    (made, *_) = read_trajectories(sft.file)
    with TrajectoryWriter(tmp_path / "t.jsonl") as writer:
        writer.write([dataclasses.replace(made, target=None)])
    states = read_states([tmp_path / "t.jsonl"], sft.dataset, load_dialogue("nano"), tasks=["click"])
    mix = TaskMix(**{**dict.fromkeys(TASKS, 0.0), "click": 1.0})
    given = {"states": states, "paths": [tmp_path / "t.jsonl"], "dataset": sft.dataset, "tasks": mix}
    assert Examples(**given, dialogue=load_dialogue("nano"))[0].asked is None
    with pytest.raises(ValueError, match=r"sample '\w+': its trajectory has no target, which train.needs"):
        Examples(**given, dialogue=load_dialogue("nano"), grid=4)[0]


def test_only_the_answer_is_learnt_and_an_open_one_has_no_end(sft):
    mllm = sft.mllm()
    collate = Collator(mllm)
    for task in ("iou", "iou_click"):
        examples = examples_of(sft, {task: 1.0})
        batch = collate([examples[0], examples[1]])
        for row, number in enumerate((0, 1)):
            learnt = batch.labels[row][batch.labels[row] != -100].tolist()
            answer = mllm.tokenizer.encode(examples[number].answer)
            assert learnt == answer + ([] if task == "iou" else [mllm.tokenizer.end])
        assert "labels" not in batch.tensors and batch.token_weights().sum() == (batch.labels != -100).sum()


def test_over_long_samples_are_named_and_never_cut(sft):
    mllm = sft.mllm()
    mllm.max_length = 20
    with pytest.raises(ValueError, match=r"samples 's\d+': prompt .* tokens, Osprey reads at most 20"):
        Collator(mllm)([examples_of(sft, {"iou_click": 1.0})[0]])


def test_examples_of_like_length_share_a_batch_and_none_is_lost(sft):
    examples = examples_of(sft, {"iou_click": 1.0})
    examples.states.length[:] = np.random.default_rng(0).integers(5, 50, len(examples))
    plain, grouped = (BatchPlan(examples, batch_size=2, group=group, seed=1) for group in (1, 4))
    batches = [grouped.batch(number) for number in range(8)]
    assert sorted(chain(*batches[:4])) == list(range(8)) and sorted(chain(*batches[4:])) == list(range(8, 16))
    spread = [sum(np.ptp(examples.lengths(plan.batch(n))[:, 1]) for n in range(8)) for plan in (plain, grouped)]
    assert spread[1] < spread[0]
    assert grouped.batch(5) == BatchPlan(examples, batch_size=2, group=4, seed=1).batch(5)


def test_pictures_of_another_size_are_refused_before_anything_is_learnt(sft, tmp_path):
    """Ids of generated pictures do not tell their size."""
    small, large = (RefShapes(subset="refshapes", split="train", size=size, limit=4) for size in (128, 160))
    environment = Environment(segmenter=sft.discs, max_clicks=1)
    with TrajectoryWriter(tmp_path / "t.jsonl") as writer:
        for made in rollout((small[index] for index in range(2)), policy=Oracle(), environment=environment):
            writer.write(made)
    states = read_states([tmp_path / "t.jsonl"], small, load_dialogue("nano"), tasks=["iou_click"])
    assert len(states)
    told = rf"t.jsonl: its picture of sample .* has {128**2} pixels, that of data has {160**2}; give the data="
    with pytest.raises(ValueError, match=told):
        read_states([tmp_path / "t.jsonl"], large, load_dialogue("nano"), tasks=["iou_click"])
    assert chosen_samples(small, [tmp_path / "t.jsonl"], None) == [0, 1]
    with pytest.raises(ValueError, match=told):
        chosen_samples(large, [tmp_path / "t.jsonl"], None)


@pytest.fixture
def voided(sft, tmp_path):
    """The file of all trajectories, with the upper part of each target void."""
    with TrajectoryWriter(tmp_path / "v.jsonl") as writer:
        for made in read_trajectories(sft.file):
            target = decode_rle(made.target)
            void = target.copy()
            void[int(np.argwhere(target)[:, 0].mean()) :] = False
            writer.write([dataclasses.replace(made, void=encode_rle(void))])
    return tmp_path / "v.jsonl"


def examples_in(sft, path, task, **changes):
    """Of another file than the fixture's."""
    dialogue, mix = changes.pop("dialogue", load_dialogue("nano")), TaskMix(**{**dict.fromkeys(TASKS, 0.0), task: 1.0})
    states = read_states([path], sft.dataset, dialogue, tasks=mix.names)
    return Examples(
        states=states, paths=[path], dataset=sft.dataset, dialogue=dialogue, tasks=mix, **{"seed": 1} | changes
    )


def test_void_pixels_count_in_nothing_that_is_said(sft, voided):
    examples = examples_in(sft, voided, "perturbed")
    for made in map(examples.__getitem__, range(20)):
        target, void = made.sample.target, made.sample.void
        assert void is not None and void.any()
        said = examples.dialogue.parse(made.answer, width=made.sample.width, height=made.sample.height)
        assert said.predicted_iou == pytest.approx(iou(made.mask, target, void), abs=0.006)
        assert said.click == next_click(target, made.mask, (), void)
    made = examples_in(sft, voided, "click", grid=4)[0]
    missing = made.sample.target & ~made.mask & ~made.sample.void
    assert made.asked.needs[0].sum() * missing.size / 16 == pytest.approx(missing.sum(), rel=1e-4)
    assert made.asked.places.sum() == 1, "where the click falls"


def test_the_weight_of_a_task_is_that_of_its_tokens(sft):
    examples = examples_of(sft, {"iou_click": 1.0}, weights={"iou_click": 0.25})
    assert examples[0].weight == 0.25
    assert Collator(sft.mllm())([examples[0]]).token_weights().max() == 0.25


def test_wrong_masks_follow_from_the_seed_too(sft):
    one, other = (examples_of(sft, {"perturbed": 1.0}, seed=seed) for seed in (1, 2))
    for examples in (one, other):
        examples.states = examples.states.rows(np.array([0]))  # with one state the order says nothing
    assert [one[n].answer for n in range(4)] != [other[n].answer for n in range(4)]


def test_an_end_says_no_iou_where_there_are_no_words_for_it(sft):
    plain = Dialogue(system="", prompt="{description}")
    examples = examples_of(sft, {"finish": 1.0}, dialogue=plain)
    assert plain.parse(examples[0].answer, width=60, height=40).finished


def test_a_trajectory_brings_its_own_text(sft, tmp_path):
    with TrajectoryWriter(tmp_path / "t.jsonl") as writer:
        writer.write(dataclasses.replace(made, text="another name") for made in read_trajectories(sft.file))
    asked = []
    examples = examples_in(
        sft, tmp_path / "t.jsonl", "click", mentions=lambda index, text: asked.append(text) or np.zeros((3, 4))
    )
    assert examples[0].sample.text == "another name" and asked == ["another name"]


def test_lengths_are_those_of_the_states_that_come(sft):
    examples = examples_of(sft, {"iou_click": 1.0})
    examples.states.length[:] = np.arange(len(examples))
    numbers = np.arange(len(examples))
    assert examples.lengths(numbers)[:, 1].tolist() == [examples.row(number) for number in numbers]


def test_absolute_coordinates_are_those_of_the_picture_as_the_model_sees_it(sft):
    absolute = load_dialogue("absolute")
    examples = examples_of(sft, {"click": 1.0}, dialogue=absolute, seen=lambda *, width, height: (2 * width, height))
    made, row = examples[0], examples.row(0)
    click = examples.trajectory(row).steps[int(examples.states.state[row])].action.click
    size = {"width": made.sample.width, "height": made.sample.height}
    assert absolute.parse(made.answer, **size, seen=(2 * made.sample.width, made.sample.height)).click == click


def test_a_mask_that_happens_to_be_right_is_told_and_no_end(sft, monkeypatch):
    monkeypatch.setattr("segagent.training.examples.perturbed", lambda target, void, random: target.copy())
    made = examples_of(sft, {"perturbed": 1.0})[0]
    reply = load_dialogue("nano").parse(made.answer, width=made.sample.width, height=made.sample.height)
    assert reply.predicted_iou == 1 and reply.click is None and not reply.finished


def test_digits_count_less_and_less(sft):
    mllm = sft.mllm()
    labels = torch.tensor([mllm.tokenizer.encode("Positive point: (123, 45)")])
    weights = Collator(mllm, digit_decay=0.5)._digit_weights(labels)[0]
    digits = torch.isin(labels[0], torch.tensor(mllm.tokenizer.digit_tokens))
    assert weights[digits].tolist()[:3] == [1, 0.5, 0.25] and (weights[~digits] == 1).all()

"""Probabilities of given beginnings of a reply, against one pass of the whole network per token and text."""

from functools import cache

import numpy as np
import pytest
import torch

from segagent.dialogue import load_dialogue
from segagent.mllm import Osprey, QwenVLChat, TransformersVLM
from segagent.mllm.choices import ChoiceTree
from segagent.mllm.testing_vlm import FAMILIES, write_tiny_checkpoint

MEMBERS = {"nano": Osprey, "osprey": Osprey, "qwen_vl_chat": QwenVLChat}


def by_enumeration(paths, log_probs):
    """`[N]`: the product over each path of what is left of a token's probability among those that go on with a text.

    log_probs(tokens) -> `[V]` of the next token.
    """
    log_probs = cache(log_probs)
    found = np.ones(len(paths))
    for number, path in enumerate(paths):
        for depth in range(len(path)):
            alike = [other for other in paths if other[:depth] == path[:depth]]
            chances = np.exp(log_probs(path[:depth]))
            others = {other[depth] for other in alike if len(other) > depth}
            if any(len(other) == depth for other in alike):
                found[number] *= chances[path[depth]]
            else:
                found[number] *= chances[path[depth]] / sum(chances[token] for token in others)
        if any(len(other) > len(path) and other[: len(path)] == path for other in paths):
            chances = np.exp(log_probs(path))
            others = {other[len(path)] for other in paths if len(other) > len(path) and other[: len(path)] == path}
            found[number] *= 1 - sum(chances[token] for token in others)
    return found


def some_choices(dialogue, count=101):
    texts, _ = load_dialogue(dialogue).iou_choices()
    return texts[:: max(1, len(texts) // count)]


@pytest.fixture(params=MEMBERS)
def local(request, folders):
    model = MEMBERS[request.param].from_checkpoint(folders[request.param], device="cpu")
    # Random weights give every token about the same probability, whatever was read: their differences are made great.
    with torch.no_grad():
        model.network.language.get_output_embeddings().weight.mul_(8)
    return model


def alone(model, observation, paths):
    pixels = model.pixels(observation.image)[None]
    prompt = model.prompt_tokens(observation)

    def log_probs(tokens):
        ids = torch.tensor([[*prompt, *tokens]])
        with torch.inference_mode():
            return model.network(ids, torch.ones_like(ids), pixels).logits[0, -1].double().log_softmax(-1).numpy()

    return by_enumeration(paths, log_probs)


def test_local_models_tell_what_enumeration_finds(local, observe):
    choices = some_choices(local.dialogue, 25 if local.dialogue != "nano" else 101)
    observations = [observe(local.dialogue, "red star" + " thing" * (3 * k), k) for k in range(3)]
    paths = [tuple(local.tokenizer.encode(text)) for text in choices]
    replies = local.generate(observations, choices=choices, max_new_tokens=3)
    for observation, (reply,) in zip(observations, replies, strict=True):
        assert sum(reply.weights) == pytest.approx(1) and max(reply.weights) > 1.5 / len(choices)
        np.testing.assert_allclose(reply.weights, alone(local, observation, paths), atol=2e-4, rtol=2e-3)
    told = np.array([row[0].weights for row in replies])
    assert np.abs(told - told.mean(0)).max() > 1e-3, "the observation makes no difference"


def test_asking_changes_no_reply_and_no_reply_changes_the_answer(local, observe, monkeypatch):
    choices = some_choices(local.dialogue)
    observations = [observe(local.dialogue, "red star" + " thing" * k, k) for k in range(5)]
    settings = {"num_samples": 3, "temperature": 1.0, "seeds": range(5), "max_new_tokens": 5, "greedy_first": True}
    plain = local.generate(observations, **settings)
    looked, see = [], local.network.visual_tokens
    monkeypatch.setattr(local.network, "visual_tokens", lambda pixels: looked.append(len(pixels)) or see(pixels))
    asked = local.generate(observations, choices=choices, **settings)
    assert looked == [5], "one look serves the replies and the probabilities"
    assert [[c.text for c in row] for row in asked] == [[c.text for c in row] for row in plain]
    assert all(c.weights is None for row in plain for c in row)
    assert all(c.weights == row[0].weights for row in asked for c in row)
    local.max_batch = 2
    forced = local.generate(observations, choices=choices, prefixes=["Current IOU: 8", "", "a", "", ""])
    for row, other in zip(asked, forced, strict=True):
        np.testing.assert_allclose(row[0].weights, other[0].weights, atol=1e-5)


def test_a_prompt_that_leaves_no_room_for_the_choices_is_refused(local, observe):
    observation = observe(local.dialogue)
    local.max_length = len(local.prompt_tokens(observation)) + 2
    with pytest.raises(ValueError, match="reads at most"):
        local.generate([observation], choices=some_choices(local.dialogue))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_vision_language_models_tell_what_enumeration_finds(family, observe, tmp_path):
    model = TransformersVLM.from_checkpoint(write_tiny_checkpoint(family, tmp_path / "m"), device="cpu")
    with torch.no_grad():
        model.network.get_output_embeddings().weight.mul_(8)
    choices = some_choices("paper", 20)
    observations = [observe("paper", "red star" + " thing" * (3 * k), k, (40 + 20 * k, 60)) for k in range(3)]
    settings = {"max_new_tokens": 3, "num_samples": 2, "temperature": 1.0, "seeds": [1, 2, 3]}
    plain = model.generate(observations, **settings)
    replies = model.generate(observations, choices=choices, **settings)
    assert [[c.text for c in row] for row in replies] == [[c.text for c in row] for row in plain]
    forced = model.generate(observations, choices=choices, prefixes=["Current", "", "Positive point: (1, 2)"])
    for observation, row, other in zip(observations, replies, forced, strict=True):
        batch = dict(model.encode([observation] * len(choices), choices))
        labels, known, paths = batch.pop("labels"), {}, []
        with torch.inference_mode():
            logits = model.network(**batch).logits.double().log_softmax(-1).numpy()
        for text, learnt in enumerate(labels):
            places = (learnt >= 0).nonzero()[:-1, 0].tolist()  # without the end token
            paths.append(tuple(learnt[places].tolist()))
            known |= {paths[-1][:depth]: logits[text, place - 1] for depth, place in enumerate(places)}
            known[paths[-1]] = logits[text, places[-1]]
        expected = by_enumeration(paths, known.__getitem__)
        np.testing.assert_allclose(row[0].weights, expected, atol=2e-4, rtol=2e-3)
        np.testing.assert_allclose(other[0].weights, expected, atol=2e-4, rtol=2e-3)
        assert max(expected) > 1.5 / len(choices)


def test_a_text_may_be_the_beginning_of_another():
    tree = ChoiceTree([(7, 1), (7, 1, 2), (7, 1, 2, 3), (7, 4)])
    assert tree.shared == [7] and tree.tokens == [1, 2] and tree.parents == [0, 1] and tree.longest == 4
    logits = torch.randn(1, 3, 9, generator=torch.Generator().manual_seed(0))
    after = {(7,): 0, (7, 1): 1, (7, 1, 2): 2}
    log_probs = logits[0].log_softmax(-1).double().numpy()
    certain = np.log(np.eye(9)[7] + 1e-300)  # the beginning that all share
    paths = [(7, 1), (7, 1, 2), (7, 1, 2, 3), (7, 4)]
    expected = by_enumeration(paths, lambda path: certain if path == () else log_probs[after[path]])
    np.testing.assert_allclose(tree.weights(logits)[0], expected, atol=1e-6)


def test_texts_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ValueError, match="2 choices, 1 distinct to this tokenizer"):
        ChoiceTree([(1, 2), (1, 2)])

"""What every multimodal LLM promises, whatever it is made of. New members join by one line in MEMBERS."""

import pytest
import torch

from segagent.configuration import names
from segagent.dialogue import load_dialogue
from segagent.mllm import Osprey, QwenVLChat
from segagent.mllm.network import IMAGE_TOKEN
from segagent.mllm.sampling import uniforms
from segagent.types import Click

MEMBERS = {"nano": Osprey, "osprey": Osprey, "qwen_vl_chat": QwenVLChat}
TEXTS = ("the red star", "", "a cat 12 %", "the big blue circle above the small green thing on the left, please")


class EndsOften:
    """A tokenizer at a fifth of whose ids a reply ends, so that the rows of a batch end at different times."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        self.end_tokens = (*tokenizer.end_tokens, *range(0, tokenizer.size, 5))

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


@pytest.fixture(params=MEMBERS)
def model(request, folders):
    return MEMBERS[request.param].from_checkpoint(folders[request.param], device="cpu")


@pytest.fixture
def observations(model, observe):
    return [observe(model.dialogue, TEXTS[k % len(TEXTS)] + " thing" * (k // 4), k) for k in range(32)]


def texts(replies):
    return [[reply.text for reply in samples] for samples in replies]


def plainly(model, observation, *, prefix="", sample=0, temperature=0.0, seed=0, limit=8):
    """(text, log-probability) by the whole network at every token: no batch, no cache, nothing shared."""
    forced = model.tokenizer.encode(prefix) if prefix else []
    tokens, log_prob, draws = [], 0.0, uniforms([seed], sample + 1, limit)[sample]
    for step in range(limit):
        ids = torch.tensor([[*model.prompt_tokens(observation), *forced, *tokens]])
        with torch.inference_mode():
            logits = model.network(ids, torch.ones_like(ids), model.pixels(observation.image)[None]).logits[0, -1]
        token = int(logits.argmax())
        if temperature:
            cumulated = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
            token = int((cumulated <= draws[step] * cumulated[-1]).sum())
        log_prob += float(torch.log_softmax(logits, -1)[token])
        if token in model.tokenizer.end_tokens:
            break
        tokens.append(token)
    return model.tokenizer.decode([*forced, *tokens])[len(model.tokenizer.decode(forced)) :], log_prob


def test_names_a_dialogue_that_there_is(model):
    assert model.dialogue in names("dialogue")


def test_greedy_texts_do_not_depend_on_the_batch(model, observations):
    whole = texts(model.generate(observations, max_new_tokens=4))
    for size in (1, 7):
        for k in range(0, 32, size):
            part = model.generate(observations[k : k + size], max_new_tokens=4)
            assert texts(part) == whole[k : k + size]
    assert len({text for samples in whole for text in samples}) > 2, "the observations make no difference"


def test_small_prompt_passes_give_the_same_texts(model, observations):
    whole = texts(model.generate(observations[:9], max_new_tokens=6))
    model.max_batch = 4
    assert texts(model.generate(observations[:9], max_new_tokens=6)) == whole


def test_rows_that_end_early_leave_the_others_alone(model, observations):
    model.tokenizer = EndsOften(model.tokenizer)
    settings = {"temperature": 1.0, "max_new_tokens": 8}  # greedy replies of random weights end alike
    whole = model.generate(observations[:10], seeds=range(10), **settings)
    alone = [model.generate([observations[k]], seeds=[k], **settings)[0] for k in range(10)]
    assert texts(whole) == texts(alone)
    assert len({len(text) for samples in texts(whole) for text in samples}) > 3
    assert [samples[0].finished for samples in whole] == [samples[0].finished for samples in alone]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_shared_prompts_give_what_no_sharing_gives(model, observations, temperature):
    model.tokenizer = EndsOften(model.tokenizer)
    seeds = [11, 12, 13]
    shared = model.generate(observations[1:4], num_samples=3, temperature=temperature, seeds=seeds, max_new_tokens=8)
    for observation, seed, samples in zip(observations[1:4], seeds, shared, strict=True):
        for number, sample in enumerate(samples):
            text, log_prob = plainly(model, observation, sample=number, temperature=temperature, seed=seed)
            assert sample.text == text
            assert sample.log_prob == pytest.approx(log_prob, abs=1e-3)


def test_an_image_is_looked_at_once_for_all_its_samples(model, observations, monkeypatch):
    looked = []
    see = model.network.visual_tokens
    monkeypatch.setattr(model.network, "visual_tokens", lambda pixels: looked.append(len(pixels)) or see(pixels))
    model.generate(observations[:3], num_samples=4, temperature=1.0, seeds=[1, 2, 3], max_new_tokens=5)
    assert looked == [3]


def test_a_sample_follows_from_its_seed_and_number_alone(model, observations):
    def draw(chosen, count, seeds):
        settings = {"temperature": 1.0, "max_new_tokens": 6}
        return texts(model.generate([observations[k] for k in chosen], num_samples=count, seeds=seeds, **settings))

    four = draw([5, 2, 9], 4, [7, 8, 7])
    assert draw([9, 5], 2, [7, 7]) == [four[2][:2], four[0][:2]]
    assert len(set(four[0])) > 1, "all samples are alike"
    assert draw([5], 4, [9]) != [four[0]], "the seed makes no difference"


def test_greedy_samples_are_alike(model, observations):
    samples = model.generate(observations[:2], num_samples=3, max_new_tokens=4)
    assert [len(set(row)) for row in samples] == [1, 1] and [len(row) for row in samples] == [3, 3]


def test_the_first_of_several_samples_can_be_the_greedy_one(model, observations):
    settings = {"num_samples": 3, "temperature": 1.5, "seeds": [5, 6], "max_new_tokens": 8}
    mixed = model.generate(observations[:2], greedy_first=True, **settings)
    greedy = model.generate(observations[:2], max_new_tokens=8)
    sampled = model.generate(observations[:2], **settings)
    for one, best, drawn in zip(mixed, greedy, sampled, strict=True):
        assert [reply.text for reply in one] == [best[0].text, *(reply.text for reply in drawn[1:])]
        assert one[0].log_prob == pytest.approx(best[0].log_prob, abs=1e-4)


def test_forced_prefixes_are_continued_and_left_out_of_the_text(model, observations):
    prefixes = ["", "Current IOU: 8", "Positive point: (", "Current IOU: 85, Positive point: (1, 2"]
    replies = model.generate(observations[:4], prefixes=prefixes, max_new_tokens=8)
    for observation, prefix, samples in zip(observations[:4], prefixes, replies, strict=True):
        text, log_prob = plainly(model, observation, prefix=prefix)
        assert samples[0].text == text
        assert samples[0].log_prob == pytest.approx(log_prob, abs=1e-3)


def test_a_reply_at_the_token_limit_says_so(model, observations):
    model.tokenizer = EndsOften(model.tokenizer)
    drawn = model.generate(observations[:4], num_samples=16, temperature=1.0, max_new_tokens=1)
    replies = [reply for samples in drawn for reply in samples]
    assert {reply.finished for reply in replies} == {True, False}
    assert all(reply.text == "" for reply in replies if reply.finished)


def test_a_reply_is_cut_where_the_model_reads_no_further(model, observations):
    model.max_length = len(model.prompt_tokens(observations[3])) + 2
    alone = model.generate(observations[3:4], max_new_tokens=20)[0][0]
    assert not alone.finished
    assert alone.text == plainly(model, observations[3], limit=2)[0]


def test_training_batches_label_the_answer_and_its_end_only(model, observations):
    dialogue = load_dialogue(model.dialogue)
    answers = [
        dialogue.format(width=60, height=40, click=Click(30, 20), predicted_iou=0.5),
        dialogue.format(width=60, height=40, click=Click(1, 2, False)),
    ]
    batch = model.encode(observations[2:4], answers)
    assert set(batch) == {"input_ids", "attention_mask", "labels", "pixel_values"}
    for number, (observation, answer) in enumerate(zip(observations[2:4], answers, strict=True)):
        prompt = model.prompt_tokens(observation)
        reply = [*model.tokenizer.encode(answer), model.tokenizer.end_tokens[0]]
        length, padding = len(prompt) + len(reply), batch["labels"].shape[1] - len(prompt) - len(reply)
        assert batch["input_ids"][number, :length].tolist() == prompt + reply
        assert batch["attention_mask"][number].tolist() == [1] * length + [0] * padding
        assert batch["labels"][number].tolist() == [-100] * len(prompt) + reply + [-100] * padding
        assert model.tokenizer.decode(reply[:-1]) == answer
    assert all(batch[name].dtype == torch.int64 for name in ("input_ids", "attention_mask", "labels"))
    loss = model.network(**batch).loss
    assert torch.isfinite(loss)
    alone = [model.network(**model.encode([o], [a])).loss for o, a in zip(observations[2:4], answers, strict=True)]
    counts = (batch["labels"] != -100).sum(1)
    torch.testing.assert_close(loss, (torch.stack(alone) * counts).sum() / counts.sum(), rtol=1e-4, atol=1e-4)


def test_labels_of_nano_are_the_hand_written_ones(folders, observe):
    model = Osprey.from_checkpoint(folders["nano"], device="cpu")
    ids = model.tokenizer.ids
    batch = model.encode(
        [observe("nano", "red star"), observe("nano", "the star")], ["Finish", "Positive point: (5, 70)"]
    )
    image, skip, none = [IMAGE_TOKEN] * 16, [-100] * 19, ids["<zero>"]
    first = [ids["Finish"], ids["<end>"]]
    second = [
        ids["Positive point: ("],
        none,
        none,
        ids["5"],
        ids[", "],
        none,
        ids["7"],
        ids["0"],
        ids[")"],
        ids["<end>"],
    ]
    begin, red, the, star = (ids[text] for text in ("<begin>", " red", " the", " star"))
    assert batch["labels"].tolist() == [skip + first + [-100] * 8, skip + second]
    assert batch["input_ids"].tolist() == [
        [begin, red, star, *image, *first, *[ids["<end>"]] * 8],
        [begin, the, star, *image, *second],
    ]


def test_generation_batches_are_padded_on_the_left(model, observations):
    batch = model.encode(observations[2:4])
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values"}
    for number, observation in enumerate(observations[2:4]):
        prompt = model.prompt_tokens(observation)
        padding = batch["input_ids"].shape[1] - len(prompt)
        assert batch["input_ids"][number, padding:].tolist() == prompt
        assert batch["attention_mask"][number].tolist() == [0] * padding + [1] * len(prompt)


def test_over_long_prompts_are_refused_and_never_cut(model, observations, observe):
    long = observe(model.dialogue, "very " * 2000 + "red star")
    for call in (
        lambda: model.generate([observations[0], long]),
        lambda: model.encode([observations[0], long]),
        lambda: model.encode([long], ["Finish"]),
    ):
        with pytest.raises(ValueError, match=r"tokens, (Osprey|QwenVLChat) reads at most \d+; shorten"):
            call()
    model.max_length = len(model.prompt_tokens(observations[0])) + 1
    with pytest.raises(ValueError, match="reads at most"):
        model.encode(observations[:1], ["Finish"])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"prefixes": ["a"]}, "2 observations, 1 prefixes and 2 seeds"),
        ({"seeds": [1, 2, 3]}, "2 observations, 2 prefixes and 3 seeds"),
        ({"num_samples": 0}, "num_samples=0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_unsound_calls_are_refused(model, observations, settings, message):
    with pytest.raises(ValueError, match=message):
        model.generate(observations[:2], **settings)


def test_nothing_in_is_nothing_out(model):
    assert model.generate([]) == []


def test_unsound_options_are_refused(folders):
    for name, member in MEMBERS.items():
        for options, message in (({"dtype": "int8"}, "dtype='int8': choose"), ({"max_batch": 0}, "max_batch=0")):
            with pytest.raises(ValueError, match=message):
                member.from_checkpoint(folders[name], device="cpu", **options)


def test_seeds_of_any_size_draw_apart():
    rows = uniforms([0, -1, -2, 2**63, 2**63 + 1, 5], 1, 4)
    assert len({tuple(row) for row in rows}) == 6
    assert (uniforms([5], 1, 4)[0] == rows[-1]).all()

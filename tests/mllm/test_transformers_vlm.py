"""Every family on a tiny checkpoint in the hub's format: tensors, labels, batching, samples, prefixes, sizes."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from segagent.configuration import build, load_named
from segagent.dialogue import Observation, load_dialogue
from segagent.mllm import TransformersVLM
from segagent.mllm.image_size import bounded_size
from segagent.mllm.parts import part_of
from segagent.mllm.sampling import uniforms
from segagent.mllm.testing_vlm import FAMILIES, write_tiny_checkpoint
from segagent.training.sft_network import save_model
from segagent.types import Box, Click, RefusedError

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return lambda family: root / family if (root / family).exists() else write_tiny_checkpoint(family, root / family)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, folder):
    return TransformersVLM.from_checkpoint(folder(family), device="cpu")


def observations(count, seed=0):
    """Of many sizes and prompts, so that every batch needs padding."""
    random = np.random.default_rng(seed)
    sizes = [(40 + 13 * (index % 5), 60 + 17 * (index % 3)) for index in range(count)]
    return [
        Observation(
            random.integers(0, 256, (*size, 3), dtype=np.uint8),
            "You click." if index % 2 else "",
            f"thing {index}" * (1 + index % 3),
        )
        for index, size in enumerate(sizes)
    ]


def texts(completions):
    return [[completion.text for completion in row] for row in completions]


# --- batches --------------------------------------------------------------------------------------------------------


def test_greedy_texts_are_the_same_for_batches_of_1_7_and_32(model, monkeypatch):
    rows = observations(32)
    replies = {}
    for size in (1, 7, 32):
        monkeypatch.setattr(model, "max_batch", size)
        replies[size] = texts(model.generate(rows, max_new_tokens=8))
    assert replies[1] == replies[7] == replies[32]
    assert len({row[0] for row in replies[1]}) > 16, "replies follow the picture and the prompt"


def test_greedy_is_what_transformers_own_generation_says(model):
    rows = observations(5)
    batch = dict(model.encode(rows))
    told = model.network.generate(**batch, max_new_tokens=8, do_sample=False)[:, batch["input_ids"].shape[1] :]
    tokenizer = model.processor.tokenizer
    ours = model.generate(rows, max_new_tokens=8)
    for row, tokens in zip(ours, told, strict=True):
        expected = [token for token in tokens.tolist() if token not in model._end_ids]
        again = tokenizer.decode(expected, skip_special_tokens=False)
        assert row[0].text.strip() == again.strip()


def test_a_padded_row_has_the_logits_it_has_alone(model):
    rows, answers = observations(4), ["Finish", "Positive point: (1, 2)", "Negative point: (333, 4)", "Finish"]
    batch = model.encode(rows, answers)
    with torch.inference_mode():
        together = model.network(**batch).logits
        for index, (row, answer) in enumerate(zip(rows, answers, strict=True)):
            alone = model.encode([row], [answer])
            length = alone["input_ids"].shape[1]
            assert int(batch["attention_mask"][index].sum()) == length
            torch.testing.assert_close(model.network(**alone).logits[0], together[index, :length], atol=2e-4, rtol=1e-4)


def test_the_picture_matters_at_its_every_side(model):
    """The left and the right edge of a wide picture reach the network."""
    image = np.full((40, 120, 3), 90, np.uint8)
    replies = []
    for columns in (slice(0, 0), slice(0, 12), slice(108, 120)):
        painted = image.copy()
        painted[:, columns] = (255, 0, 0)
        with torch.inference_mode():
            replies.append(model.network(**model.encode([Observation(painted, "", "thing")])).logits[0, -1])
    assert all((replies[0] - other).abs().max() > 1e-3 for other in replies[1:])


# --- training -------------------------------------------------------------------------------------------------------


def test_labels_are_the_answer_and_its_end_token_and_nothing_else(model, family):
    rows, answers = observations(3), ["Finish", "Positive point: (12, 345)", "Current IOU: 7, Finish"]
    batch = model.encode(rows, answers)
    tokenizer = model.processor.tokenizer
    end = {"llava": "</s>", "smolvlm": "<end_of_utterance>"}.get(family, "<|im_end|>")
    for labels, ids, mask, answer in zip(
        batch["labels"], batch["input_ids"], batch["attention_mask"], answers, strict=True
    ):
        kept = labels >= 0
        assert tokenizer.decode(labels[kept]).strip() == answer + end
        assert labels[kept].tolist() == ids[kept].tolist()
        length = int(mask.sum())
        assert mask[:length].all() and kept[:length].sum() == kept.sum(), "right-padded"
        first = int(kept.nonzero()[0])
        assert kept[first:length].all() and labels[length - 1] == tokenizer.convert_tokens_to_ids(end)


def test_the_prompt_of_training_is_the_prompt_of_generation(model):
    rows = observations(3)
    trained, asked = model.encode(rows, ["Finish"] * 3), model.encode(rows)
    assert "labels" not in asked
    for index in range(3):
        prompt = asked["input_ids"][index][asked["attention_mask"][index] > 0]
        assert asked["attention_mask"][index, -1] == 1, "left-padded"
        whole = trained["input_ids"][index][trained["attention_mask"][index] > 0]
        assert whole[: len(prompt)].tolist() == prompt.tolist()
        assert (trained["labels"][index, : len(prompt)] == -100).all()


def test_the_loss_is_that_of_the_labelled_tokens_and_trains_the_network(model):
    batch = model.encode(observations(3), ["Finish", "Positive point: (1, 2)", "Finish"])
    output = model.network(**batch)
    labels = batch["labels"][:, 1:]
    log_probs = output.logits[:, :-1].float().log_softmax(-1).gather(2, labels.clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(output.loss, -log_probs[labels >= 0].mean())
    output.loss.backward()
    for part in ("projector", "language"):
        of = [weight for name, weight in model.network.named_parameters() if part_of(name) == part and weight.ndim > 1]
        reached = [weight.grad is not None and bool(weight.grad.abs().sum() > 0) for weight in of]
        assert reached and any(reached), part
    model.network.zero_grad(set_to_none=True)


# --- samples --------------------------------------------------------------------------------------------------------


def naive_samples(model, row, count, temperature, seed, steps):
    """K samples without a cache and without sharing: the whole text through the network for every token."""
    drawn = uniforms([seed], count, steps)
    found = []
    batch = model.encode([row])
    for k in range(count):
        ids, log_prob = batch["input_ids"], 0.0
        for step in range(steps):
            more = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
            if "mm_token_type_ids" in more:
                pad = ids.new_zeros((1, ids.shape[1] - more["mm_token_type_ids"].shape[1]))
                more["mm_token_type_ids"] = torch.cat([more["mm_token_type_ids"], pad], 1)
            with torch.inference_mode():
                logits = model.network(input_ids=ids, attention_mask=torch.ones_like(ids), **more).logits[0, -1]
            cumulative = torch.softmax(logits.double() / temperature, -1).cumsum(-1)
            token = int((cumulative <= drawn[k, step] * cumulative[-1]).sum())
            log_prob += float(logits.log_softmax(-1)[token])
            ids = torch.cat([ids, torch.tensor([[token]])], 1)
            if token in model._end_ids or token == model.processor.image_token_id:
                log_prob = None  # ended early, or no prompt that the network would read once more
                break
        found.append((ids[0, batch["input_ids"].shape[1] :].tolist(), log_prob))
    return found


def test_samples_that_share_a_prompt_equal_samples_that_do_not(model):
    rows, seeds = observations(3), (5, 6, 7)
    made = model.generate(rows, num_samples=3, temperature=0.8, seeds=seeds, max_new_tokens=5)
    compared = 0
    for row, seed, completions in zip(rows, seeds, made, strict=True):
        for (tokens, log_prob), completion in zip(naive_samples(model, row, 3, 0.8, seed, 5), completions, strict=True):
            if log_prob is not None:
                expected = model.processor.tokenizer.decode(tokens, skip_special_tokens=False)
                assert completion.text.strip() == expected.strip()
                assert completion.log_prob == pytest.approx(log_prob, abs=1e-3)
                compared += 1
    assert compared >= 6 and len({completion.log_prob for row in made for completion in row}) == 9


def test_a_prompt_goes_through_the_network_once_for_all_its_samples(model, monkeypatch):
    passes = []
    forward = model.network.forward

    def counted(*arguments, **inputs):
        passes.append(("pixel_values" in inputs, inputs["input_ids"].shape))
        return forward(*arguments, **inputs)

    monkeypatch.setattr(model.network, "forward", counted)
    model.generate(observations(2), num_samples=4, temperature=1.0, max_new_tokens=3)
    assert [with_picture for with_picture, _ in passes].count(True) == 1
    assert passes[0][1][0] == 2 and all(shape == (8, 1) for _, shape in passes[1:])


def test_the_kth_sample_follows_from_its_seed_and_k_alone(model, monkeypatch):
    rows = observations(6)
    options = {"temperature": 1.0, "max_new_tokens": 6}
    made = texts(model.generate(rows, num_samples=3, seeds=range(10, 16), **options))
    assert texts(model.generate(rows[4:5], num_samples=1, seeds=[14], **options)) == [made[4][:1]]
    assert texts(model.generate(rows[::-1], num_samples=3, seeds=range(15, 9, -1), **options)) == made[::-1]
    monkeypatch.setattr(model, "max_batch", 4)
    assert texts(model.generate(rows, num_samples=3, seeds=range(10, 16), **options)) == made
    assert texts(model.generate(rows, num_samples=3, seeds=range(20, 26), **options)) != made


def test_greedy_samples_are_alike(model):
    (row,) = model.generate(observations(1), num_samples=3, max_new_tokens=4)
    assert len(row) == 3 and len(set(row)) == 1


def test_the_first_of_several_samples_can_be_the_greedy_one(model):
    rows = observations(2)
    settings = {"num_samples": 3, "temperature": 1.5, "seeds": [5, 6], "max_new_tokens": 5}
    mixed = model.generate(rows, greedy_first=True, **settings)
    greedy, sampled = model.generate(rows, max_new_tokens=5), model.generate(rows, **settings)
    for one, best, drawn in zip(mixed, greedy, sampled, strict=True):
        assert [reply.text for reply in one] == [best[0].text, *(reply.text for reply in drawn[1:])]


def test_a_reply_ends_at_its_end_token_whose_probability_counts(model, monkeypatch):
    rows = observations(3)
    whole = model.generate(rows, max_new_tokens=5)
    batch = dict(model.encode(rows[:1]))
    tokens = model.network.generate(**batch, max_new_tokens=5, do_sample=False)[0, batch["input_ids"].shape[1] :]
    tokens = tokens.tolist()
    stop = next(index for index in range(1, 5) if tokens[index] not in tokens[:index])
    monkeypatch.setattr(model, "_end_ids", {tokens[stop]})
    cut = model.generate(rows, max_new_tokens=5)
    tokenizer = model.processor.tokenizer
    assert cut[0][0].finished and not whole[0][0].finished
    assert cut[0][0].text.strip() == tokenizer.decode(tokens[:stop], skip_special_tokens=False).strip()
    as_long = model.generate(rows[:1], max_new_tokens=stop + 1)[0][0]
    assert cut[0][0].log_prob == pytest.approx(as_long.log_prob, abs=1e-4)


@pytest.mark.parametrize("prefix", ["Current IOU: 85,", "Positive point: ("])
def test_a_forced_prefix_is_gone_on_from_as_if_the_model_had_said_it(model, prefix):
    rows = observations(3)
    ours = model.generate(rows, prefixes=[prefix, "", prefix], max_new_tokens=5)
    assert ours[1][0].text == model.generate(rows[1:2], max_new_tokens=5)[0][0].text
    trained = model.encode(rows[:1], [prefix])  # the same tokens as in training, without the end token
    begun = {name: value for name, value in trained.items() if name != "labels"}
    cut = int((trained["labels"] >= 0).nonzero()[-1, 1])
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in begun:
            begun[name] = begun[name][:, :cut]
    told = model.network.generate(**begun, max_new_tokens=5, do_sample=False)[0, cut:]
    expected = model.processor.tokenizer.decode(told, skip_special_tokens=False)
    assert ours[0][0].text.strip() == expected.strip() and not ours[0][0].text.startswith(prefix)


def test_spaces_at_the_seam_belong_to_the_reply_only_after_a_prefix(model):
    """prefix + text is the reply: neither loses nor doubles the space between them."""
    tokenizer = model.processor.tokenizer
    row = observations(1)[0]
    for prefix, reply, wanted in (("", "Finish", "Finish"), ("Current IOU: 8,", " Finish", " Finish")):
        whole = model.encode([row], [prefix + reply])
        start = model.encode([row], [prefix])
        kept = (start["labels"] >= 0).nonzero()[-1, 1] if prefix else (start["labels"] >= 0).nonzero()[0, 1]
        ids = whole["input_ids"][0].tolist()
        sample = type("S", (), {"tokens": ids[int(kept) : -1], "log_prob": 0.0, "finished": True})
        assert model._completion(ids[: int(kept)][-16:], prefix, sample, None).text == wanted
    assert tokenizer.decode([]) == ""


# --- sizes and coordinates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_bounded_size_is_the_published_rule(seed):
    random = np.random.default_rng(seed)
    width, height = (int(side) for side in random.integers(10, 3000, 2))
    low, high = sorted(int(area) for area in random.integers(28 * 28 * 4, 3_000_000, 2))
    wide, tall = bounded_size(width=width, height=height, multiple=28, min_pixels=low, max_pixels=high)
    assert (tall, wide) == smart_resize(height, width, 28, low, high)
    with pytest.raises(ValueError, match="200 times"):
        bounded_size(width=2010, height=10, multiple=28, min_pixels=low, max_pixels=high)


@pytest.mark.parametrize("name", QWEN)
def test_seen_size_is_the_size_the_network_gets(name, folder):
    model = TransformersVLM(path=folder(name), device="cpu", min_pixels=6000, max_pixels=30000)
    patch = model.processor.image_processor.patch_size
    for height, width in ((37, 50), (300, 200), (90, 640), (20, 20)):
        seen = model.seen_size(width=width, height=height)
        grid = model.encode([Observation(np.zeros((height, width, 3), np.uint8), "", "x")])["image_grid_thw"][0]
        assert seen == (int(grid[2]) * patch, int(grid[1]) * patch)
        assert seen[0] * seen[1] <= 30000


def test_an_absolute_dialogue_comes_back_through_the_models_own_resizing(folder):
    """Qwen2.5-VL: pixels of the resized picture."""
    model, dialogue = TransformersVLM(path=folder("qwen2_5_vl"), device="cpu"), load_dialogue("absolute")
    for width, height in ((120, 90), (640, 427), (31, 400)):
        seen = model.seen_size(width=width, height=height)
        for click in (Click(0, 0), Click(width - 1, height - 1, False), Click(width // 3, height // 2)):
            box = Box(click.x // 2, click.y // 2, width, height)
            text = dialogue.format(width=width, height=height, click=click, box=box, seen=seen)
            first = dialogue.read_point(text, seen=seen)
            assert first[1] * seen[0] <= seen[0] - 1, "inside the picture that the model sees"
            read = dialogue.parse(text, width=width, height=height, seen=seen)
            assert (
                abs(read.click.x - click.x) <= max(0, width / seen[0]) and read.click.is_positive == click.is_positive
            )
            assert abs(read.click.y - click.y) <= max(0, height / seen[1])
            assert abs(read.box.x0 - box.x0) <= max(1, width / seen[0]) and read.box.x1 == width


def test_families_that_cut_pictures_into_tiles_have_no_absolute_coordinates(folder):
    for name in ("internvl", "llava_onevision", "smolvlm"):
        with pytest.raises(ValueError, match="relative coordinates"):
            TransformersVLM(path=folder(name), device="cpu").seen_size(width=10, height=10)
    assert TransformersVLM(path=folder("llava"), device="cpu").seen_size(width=10, height=99) == (56, 56)
    cropped = TransformersVLM(path=folder("llava"), device="cpu", whole_image=False)
    with pytest.raises(ValueError, match="relative coordinates"):
        cropped.seen_size(width=10, height=99)


def test_whole_image_keeps_what_the_checkpoints_processor_cuts_off(folder):
    image = np.zeros((56, 168, 3), np.uint8)
    image[:, :40] = 255
    row = [Observation(image, "", "x")]
    whole, cut = (
        TransformersVLM(path=folder("llava"), device="cpu", whole_image=keep).encode(row)["pixel_values"]
        for keep in (True, False)
    )
    assert whole.shape == cut.shape and whole.std() > 0.5 and math.isclose(float(cut[0, 0].std()), 0, abs_tol=1e-4)


@pytest.mark.parametrize(
    "name, bound, tokens",
    [
        ("qwen2_vl", {"max_pixels": 28 * 28 * 6}, 1 * 3),
        ("qwen2_vl", {"min_pixels": 28 * 28 * 20}, 4 * 7),
        ("qwen3_vl", {"max_pixels": 32 * 32 * 5}, 1 * 3),
        ("internvl", {"max_tiles": 1}, 4),
        ("internvl", {"max_tiles": 2}, 4 * 3),
        ("llava_onevision", {"max_tiles": 1}, None),
        ("smolvlm", {"longest_side": 64}, 4 * 1),
        ("smolvlm", {"longest_side": 128}, 4 * 3),
    ],
)
def test_sizes_are_bounded_as_the_family_understands_it(name, bound, tokens, folder):
    row = [Observation(np.zeros((60, 120, 3), np.uint8), "", "x")]
    free, bounded = TransformersVLM(path=folder(name), device="cpu"), TransformersVLM(
        path=folder(name), device="cpu", **bound
    )  # fmt: skip
    count = {}
    for key, model in (("free", free), ("bounded", bounded)):
        batch = model.encode(row)
        count[key] = int((batch["input_ids"] == model.processor.image_token_id).sum())
        with torch.inference_mode():
            model.network(**batch)  # which refuses a wrong number of image tokens
    if tokens is None:
        assert count["bounded"] < count["free"]
    else:
        assert count["bounded"] == tokens


@pytest.mark.parametrize(
    "name, bound, words",
    [
        ("llava", {"max_pixels": 1000}, "min_pixels and max_pixels: this family does not"),
        ("qwen2_vl", {"longest_side": 100}, "longest_side: this family does not"),
        ("qwen2_vl", {"max_tiles": 4}, "max_tiles: this family does not"),
        ("qwen2_vl", {"min_pixels": 9000, "max_pixels": 8000}, "min_pixels=9000, max_pixels=8000"),
        ("qwen2_vl", {"max_pixels": 700}, "at least one patch of 784 pixels"),
        ("internvl", {"max_tiles": 0}, "max_tiles=0"),
    ],
)
def test_bounds_that_the_family_does_not_have_are_refused(name, bound, words, folder):
    with pytest.raises(ValueError, match=words):
        TransformersVLM(path=folder(name), device="cpu", **bound)


# --- the rest of the contract ---------------------------------------------------------------------------------------


def test_a_row_that_is_too_long_is_refused_never_cut(folder):
    model = TransformersVLM(path=folder("qwen2_vl"), device="cpu", max_length=80)
    short, long = observations(1)[0], Observation(np.zeros((60, 60, 3), np.uint8), "", "thing " * 20)
    assert model.encode([short])["input_ids"].shape[1] <= 80
    with pytest.raises(ValueError, match=r"row 1: \d+ tokens, the model reads 80; make the picture smaller"):
        model.encode([short, long])
    with pytest.raises(ValueError, match=r"row 0: \d+ tokens and 64 for the reply, the model reads 80"):
        model.generate([short], max_new_tokens=64)


def test_a_description_that_holds_the_image_token_is_refused(model):
    row = Observation(np.zeros((60, 60, 3), np.uint8), "", f"the {model.processor.image_token} poster")
    with pytest.raises(ValueError, match="stands for a picture in this model"):
        model.encode([row])


def test_lists_of_unequal_length_and_wrong_counts_are_refused(model):
    rows = observations(2)
    for wrong in ({"prefixes": [""]}, {"seeds": [1]}, {"num_samples": 0}, {"temperature": -1.0}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError):
            model.generate(rows, **wrong)
    with pytest.raises(ValueError, match="2 observations and 1 answers"):
        model.encode(rows, ["Finish"])
    with pytest.raises(ValueError, match="at least one"):
        model.encode([])
    assert model.generate([]) == []


def test_the_config_builds_it(folder):
    config = load_named("mllm", "transformers_vlm")
    config.path, config.device = str(folder("smolvlm")), "cpu"
    assert len(build(config).generate(observations(1), max_new_tokens=2)) == 1


def test_a_description_that_ends_the_turn_is_refused(model):
    end = model.processor.tokenizer.convert_ids_to_tokens(min(model._end_ids))
    with pytest.raises(ValueError, match=r"which is a mark of this model.s own, as of turns and pictures; change"):
        model.encode([Observation(np.zeros((60, 60, 3), np.uint8), "", f"the cup{end}left")])


def test_marks_of_the_model_s_own_are_refused(model):
    special = [token.content for token in model.processor.tokenizer.added_tokens_decoder.values() if token.special]
    assert special
    for mark in special:
        with pytest.raises(RefusedError, match=r"which (is a mark|stands for a picture)"):
            model.encode([Observation(np.zeros((60, 60, 3), np.uint8), "", f"the cup{mark}left")])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_a_picture_too_narrow_to_be_resized_is_refused_as_a_sample(folder, family):
    mllm = TransformersVLM.from_checkpoint(folder(family), device="cpu")
    with pytest.raises(RefusedError, match=r"picture of 2x500: one side is more than 200 times the other"):
        mllm.encode([Observation(np.zeros((500, 2, 3), np.uint8), "", "the cup")])


def test_a_folder_that_was_trained_with_fewer_tiles_is_read_as_it_was_trained(folder, tmp_path):
    mllm = TransformersVLM.from_checkpoint(folder("llava_onevision"), device="cpu", max_tiles=1)
    save_model(mllm, tmp_path / "saved", mllm.network.state_dict())
    again = TransformersVLM.from_checkpoint(tmp_path / "saved", device="cpu")
    rows = observations(2)
    assert [row[0].text for row in again.generate(rows, max_new_tokens=3)] == [
        row[0].text for row in mllm.generate(rows, max_new_tokens=3)
    ]


@pytest.mark.parametrize("family", ["qwen2_vl", "llava", "smolvlm"])
def test_weights_that_config_json_leaves_out_are_refused(folder, tmp_path, family):
    path = shutil.copytree(folder(family), tmp_path / family)
    content = json.loads((path / "config.json").read_text())
    text = content.get("text_config", content)
    assert text["num_hidden_layers"] > 1
    text["num_hidden_layers"] = 1
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"][:1]
    (path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"leaves out \d+ weights of the language model, such as .*layers\.1\."):
        TransformersVLM.from_checkpoint(path, device="cpu")

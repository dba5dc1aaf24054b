"""SAM against numbers recorded from the official predictor, its checkpoints, prompts and rules."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from segagent.segmenters import Sam
from segagent.segmenters.sam_checkpoint import load_sam, sam_from_official
from segagent.segmenters.sam_frames import LongestSide
from segagent.types import Box, Click

FIXTURES = Path(__file__).parents[1] / "fixtures" / "sam"
KEYS = json.loads((FIXTURES / "keys.json").read_text())


def value_of(key, shape, seed):
    """The rule by which the recorded networks were filled: from a tensor's name and shape."""
    values = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape).astype(np.float32)
    if len(shape) == 1 and key.endswith("weight"):
        return 1 + np.float32(0.1) * values
    if key.endswith("bias"):
        return np.float32(0.1) * values
    if len(shape) in (2, 4) and shape[0] != 1:
        return values / np.float32(np.sqrt(np.prod(shape[1:])))
    return np.float32(0.5) * values


class Recorded:
    """A fixture: the official predictor's picture, network and answers."""

    def __init__(self, name):
        data = np.load(FIXTURES / f"{name}.npz")
        self.data = {
            key: json.loads(str(data[key])) if data[key].dtype.kind == "U" else data[key] for key in data.files
        }
        shapes, seed = self.data["state_dict_shapes"], int(self.data["weight_seed"])
        self.state = {key: torch.from_numpy(value_of(key, tuple(shape), seed)) for key, shape in shapes.items()}
        self.cases = {case["name"]: case for case in self.data["cases"]}

    def prompt(self, case):
        points = zip(case.get("points", []), case.get("labels", []), strict=True)
        return [Click(*xy, bool(label)) for xy, label in points], Box(*case["box"]) if "box" in case else None

    def check(self, case, mask, memory):
        name = case["name"]
        assert memory.scores.shape == self.data[f"scores_{name}"].shape
        assert np.abs(memory.scores - self.data[f"scores_{name}"]).max() < 1e-4
        assert np.abs(memory.low_res_logits.numpy() - self.data[f"low_res_{name}"]).max() < 1e-4
        assert memory.chosen == self.data[f"scores_{name}"].argmax()
        if f"masks_packed_{name}" in self.data:
            shape = case["masks_shape"]
            masks = np.unpackbits(self.data[f"masks_packed_{name}"])[: np.prod(shape)].reshape(shape)
            np.testing.assert_array_equal(mask, masks[memory.chosen].astype(bool))


@pytest.fixture(scope="module", params=["predict_tall", "predict_wide"])
def recorded(request):
    return Recorded(request.param)


@pytest.fixture(scope="module")
def official_file(recorded, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam") / "sam_vit_tiny.pth"
    torch.save(recorded.state, path)
    return path


def test_every_recorded_case_of_the_official_predictor(recorded, official_file):
    """Points, boxes, both, single masks, previous logits; through the very path that an official file takes."""
    always, never = (Sam.from_checkpoint(official_file, multimask=rule, device="cpu") for rule in ("always", "never"))
    (embedding,) = always.embed([recorded.data["image_u8"]])
    memories = {}
    for name, case in recorded.cases.items():
        clicks, box = recorded.prompt(case)
        member = always if case.get("multimask", True) else never
        before = memories.get(case.get("mask_from"))
        (mask,), (memories[name],) = member.predict([embedding], [clicks], [before], [box])
        recorded.check(case, mask, memories[name])
    assert len(memories) >= 6


def test_the_recorded_cases_in_one_batch(recorded, official_file):
    """States with one click, three clicks, a box, and both, decoded in one call of the decoder."""
    segmenter = Sam.from_checkpoint(official_file, multimask="always", device="cpu")
    (embedding,) = segmenter.embed([recorded.data["image_u8"]])
    cases = [case for case in recorded.data["cases"] if case.get("multimask", True) and "mask_from" not in case]
    clicks, boxes = zip(*(recorded.prompt(case) for case in cases), strict=True)
    calls = []
    hook = segmenter.network.mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    masks, memories = segmenter.predict([embedding] * len(cases), clicks, [None] * len(cases), boxes)
    hook.remove()
    assert len(calls) == 1 and len(cases) >= 4
    for case, mask, memory in zip(cases, masks, memories, strict=True):
        recorded.check(case, mask, memory)


def test_preparation_embedding_and_upscaling_are_as_recorded(recorded, official_file):
    data, segmenter = recorded.data, Sam.from_checkpoint(official_file, device="cpu")
    pixels = segmenter.frame.pixels(data["image_u8"])
    height, width = data["input_size"]
    mean, std = (torch.tensor(getattr(segmenter.frame, name))[:, None, None] for name in ("mean", "std"))
    resized = (pixels[:, :height, :width] * std + mean).round().byte().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(resized, data["resized_image_u8"])
    assert not pixels[:, height:].any() and not pixels[:, :, width:].any()
    (embedding,) = segmenter.embed([data["image_u8"]])
    assert np.abs(embedding.features[0].numpy() - data["image_features"][0]).max() < 1e-4
    if "logits_s3_logits" in data:
        low = torch.from_numpy(data["low_res_logits"])
        upscaled = [segmenter.frame.to_picture(plane, tuple(data["original_size"]))[::3, ::3] for plane in low]
        assert np.abs(torch.stack(upscaled).numpy() - data["logits_s3_logits"]).max() < 1e-4


@pytest.mark.parametrize(
    "name, depth, heads, global_blocks",
    [
        ("sam_vit_b", 12, 12, [2, 5, 8, 11]),
        ("sam_vit_l", 24, 16, [5, 11, 17, 23]),
        ("sam_vit_h", 32, 16, [7, 15, 23, 31]),
    ],
)
def test_the_released_sizes_are_recognised(name, depth, heads, global_blocks):
    state = {key: torch.empty(shape, device="meta") for key, shape in KEYS[name]["keys"].items()}
    network = sam_from_official(state, name)
    vision, decoder = network.config.vision_config, network.config.mask_decoder_config
    assert (vision.num_hidden_layers, vision.num_attention_heads, vision.window_size) == (depth, heads, 14)
    assert list(vision.global_attn_indexes) == global_blocks and vision.image_size == 1024
    assert (decoder.num_attention_heads, decoder.mlp_dim, decoder.num_multimask_outputs) == (8, 2048, 3)
    assert sum(parameter.numel() for parameter in network.parameters()) == KEYS[name]["num_params"]


class Bomb:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_files_that_do_not_fit_are_refused_by_name(recorded, tmp_path, capsys):
    state = recorded.state

    def refused(content, message):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=message):
            load_sam(tmp_path / "a.pth")

    key = "mask_decoder.iou_token.weight"
    refused({k: v for k, v in state.items() if k != key}, rf"a.pth: {key} is not there, .* needs \[1, 32\]")
    refused(state | {key: torch.zeros(1, 16)}, rf"a.pth: {key} is \[1, 16\]")
    refused(state | {"extra.weight": torch.zeros(1)}, "a.pth: extra.weight is .* nothing of this name")
    refused({k: v for k, v in state.items() if k != "image_encoder.pos_embed"}, "image_encoder.pos_embed is missing")
    refused({"model": state}, "is not a dictionary of tensors")
    refused(state | {"bomb": Bomb()}, "a.pth: not a file of tensors")
    assert "never" not in capsys.readouterr().out
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.pth: not a file of tensors"):
        load_sam(tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"none: no such checkpoint; give a transformers folder"):
        load_sam(tmp_path / "none")


def test_a_transformers_folder_answers_as_the_official_file(recorded, official_file, tmp_path):
    load_sam(official_file).save_pretrained(tmp_path / "folder")
    first, second = (Sam.from_checkpoint(path, device="cpu") for path in (official_file, tmp_path / "folder"))
    answers = [
        segmenter.predict(segmenter.embed([recorded.data["image_u8"]]), [[Click(9, 9)]], [None])[1][0].low_res_logits
        for segmenter in (first, second)
    ]
    np.testing.assert_allclose(*answers, atol=1e-5)  # arithmetic may differ in the last bit, as memory lies otherwise


def test_three_masks_for_a_lone_first_click_only(tiny_sam):
    segmenter = tiny_sam("sam")
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    (embedding,) = segmenter.embed([image])

    def offered(clicks, memory=None, box=None):
        (_,), (after,) = segmenter.predict([embedding], [clicks], [memory], [box])
        return after

    first = offered([Click(5, 5)])
    assert first.scores.shape == (3,) and first.low_res_logits.shape == (3, 16, 16)
    assert first.chosen == first.scores.argmax() and first.score == first.scores.max()
    (given,) = segmenter.remember([embedding], [np.zeros((40, 60), bool)])
    for after in (
        offered([Click(5, 5), Click(9, 9)]),
        offered([Click(5, 5)], first),
        offered([Click(5, 5)], given),
        offered([Click(5, 5)], box=Box(1, 1, 20, 20)),
        offered([], box=Box(1, 1, 20, 20)),
    ):
        assert after.scores.shape == (1,) and after.chosen == 0
    with pytest.raises(ValueError, match="multimask='best': choose first, always or never"):
        tiny_sam("sam", multimask="best")


def test_the_chosen_masks_logits_are_what_the_next_click_sees(tiny_sam):
    segmenter = tiny_sam("sam", multimask="always")
    (embedding,) = segmenter.embed([np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)])
    (_,), (before,) = segmenter.predict([embedding], [[Click(5, 5)]], [None])
    seen = []
    hook = segmenter.network.prompt_encoder.mask_embed.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    segmenter.predict([embedding] * 2, [[Click(5, 5)], [Click(5, 5), Click(8, 9)]], [None, before])
    hook.remove()
    assert len(seen) == 1 and seen[0].shape == (1, 1, 16, 16), "the state without a mask is not fed one"
    np.testing.assert_array_equal(seen[0][0, 0].numpy(), before.low_res_logits[before.chosen].numpy())


def test_a_batch_is_decoded_in_parts_of_max_batch(tiny_sam):
    segmenter = tiny_sam("sam", multimask="always", max_batch=3)
    (embedding,) = segmenter.embed([np.zeros((40, 60, 3), np.uint8)])
    calls = []
    hook = segmenter.network.mask_decoder.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    segmenter.predict([embedding] * 7, [[Click(k, k)] for k in range(7)], [None] * 7)
    hook.remove()
    assert calls == [3, 3, 1]


def test_no_hook_stays_on_the_network(tiny_sam):
    segmenter = tiny_sam("sam")
    (embedding,) = segmenter.embed([np.zeros((40, 60, 3), np.uint8)])
    segmenter.predict([embedding] * 2, [[Click(1, 1), Click(3, 3)], [Click(1, 1)] * 3], [None] * 2)
    assert not any(module._forward_pre_hooks for module in segmenter.network.modules())


@pytest.mark.parametrize("size", [(48, 64), (64, 20), (300, 400), (7, 7)])
def test_a_given_mask_goes_into_the_inputs_frame_and_back(size):
    frame = LongestSide(64)
    mask = np.zeros(size, bool)
    mask[: size[0] // 2, size[1] // 3 :] = True
    logits = frame.from_picture(mask, 16)
    assert logits.shape == (16, 16) and logits.dtype == np.float32 and np.abs(logits).max() < 10.001
    back = frame.to_picture(torch.from_numpy(logits), size).numpy() > 0
    assert (back & mask).sum() / (back | mask).sum() > 0.8
    height, width = frame.inner_size(size, 16)
    assert (logits[height:] == -10).all() and (logits[:, width:] == -10).all(), "outside the picture there is no object"


@pytest.mark.slow
def test_vit_l_at_true_size():
    """Random weights under the official names: a picture in, three masks of its size out, and one after feedback."""
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * 0.02
        for key, shape in KEYS["sam_vit_l"]["keys"].items()
    }
    segmenter = Sam(network=sam_from_official(state, "sam_vit_l"), device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    embeddings = segmenter.embed([image]) * 2
    assert embeddings[0].features[0].shape == (256, 64, 64)
    masks, memories = segmenter.predict(embeddings, [[Click(300, 200)], [Click(9, 9)]], [None, None])
    assert [mask.shape for mask in masks] == [(480, 640)] * 2
    assert memories[0].low_res_logits.shape == (3, 256, 256) and memories[0].low_res_logits.isfinite().all()
    _, (after,) = segmenter.predict(embeddings[:1], [[Click(300, 200), Click(10, 400, False)]], memories[:1])
    assert after.scores.shape == (1,)

"""SimpleClick against numbers recorded from the released network and predictor, and its checkpoints."""

import json
import pickle
import sys
import types
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segagent.data.refshapes import RefShapes
from segagent.masks import iou, next_click
from segagent.segmenters.sam_checkpoint import load_sam
from segagent.segmenters.simpleclick import SimpleClick
from segagent.segmenters.simpleclick_checkpoint import load_simpleclick, save_simpleclick
from segagent.segmenters.simpleclick_vit import SimpleClickConfig, SimpleClickNet, click_maps, resize_positions
from segagent.types import Box, Click

FIXTURES = Path(__file__).parents[1] / "fixtures" / "simpleclick"
KEYS = json.loads((FIXTURES / "keys.json").read_text())
TINY = SimpleClickConfig(
    image_size=64, patch_size=16, embed_dim=32, depth=4, num_heads=2, out_dims=(8, 8, 12, 16), head_channels=8
)


def recorded(name):
    data = np.load(FIXTURES / f"{name}.npz")
    return {key: json.loads(str(data[key])) if data[key].dtype.kind == "U" else data[key] for key in data.files}


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


def recorded_state(data):
    shapes, seed = data["state_dict_shapes"], int(data["weight_seed"])
    state = {key: torch.from_numpy(value_of(key, tuple(shape), seed)) for key, shape in shapes.items()}
    return state | {key: torch.tensor(value) for key, value in data["weight_overrides"].items()}


class CrossEntropyLoss(torch.nn.Module):
    """The kind of object that sits in the released files."""


def write_released(path, config, state, loss=None):
    """A checkpoint as SimpleClick's `torch.save` writes it, with its loss object of a class that we do not have."""
    values = {
        "use_disks": True,
        "with_prev_mask": True,
        "norm_radius": config.click_radius,
        "backbone_params": {
            "img_size": (config.image_size,) * 2,
            "patch_size": (config.patch_size,) * 2,
            "in_chans": 3,
            "embed_dim": config.embed_dim,
            "depth": config.depth,
            "num_heads": config.num_heads,
            "mlp_ratio": 4,
            "qkv_bias": True,
        },
        "neck_params": {"in_dim": config.embed_dim, "out_dims": list(config.out_dims)},
        "head_params": {
            "in_channels": list(config.out_dims),
            "channels": config.head_channels,
            "upsample": "x1",
            "loss_decode": CrossEntropyLoss() if loss is None else loss,
        },
    }
    params = {name: {"type": "builtin", "value": value, "specified": True} for name, value in values.items()}
    content = {
        "state_dict": state,
        "config": {"class": "isegm.model.is_plainvit_model.PlainVitModel", "params": params},
    }
    module_name = "isegm.model.modeling.transformer_helper.cross_entropy_loss"
    module, home = types.ModuleType(module_name), CrossEntropyLoss.__module__
    module.CrossEntropyLoss = CrossEntropyLoss
    parents = {module_name.rsplit(".", n)[0]: types.ModuleType("x") for n in range(1, 5)}
    sys.modules.update(parents | {module_name: module})
    CrossEntropyLoss.__module__ = module_name
    try:
        torch.save(content, path)
    finally:
        CrossEntropyLoss.__module__ = home
        for name in [*parents, module_name]:
            sys.modules.pop(name)


def recorded_network(data, path):
    """Built through the very path that a released file takes."""
    config = data["config"]
    write_released(
        path,
        SimpleClickConfig(
            image_size=config["img_size"][0],
            patch_size=config["patch_size"][0],
            embed_dim=config["embed_dim"],
            depth=config["depth"],
            num_heads=config["num_heads"],
            out_dims=tuple(config["out_dims"]),
            head_channels=config["channels"],
            click_radius=config["norm_radius"],
        ),
        recorded_state(data),
    )
    return load_simpleclick(path)


@pytest.mark.parametrize("name", ["net_224_depth4", "net_448_windows_depth8"])
def test_the_network_gives_the_recorded_logits(name, tmp_path):
    data = recorded(name)
    network = recorded_network(data, tmp_path / "released.pth")
    image = torch.from_numpy(data["image_u8"]).permute(0, 3, 1, 2).float() / 255
    previous = torch.from_numpy(data["prev_mask_u8"])[:, None].float() / 255
    points = torch.from_numpy(data["points"])
    with torch.inference_mode():
        head, logits = network.head_logits(image, previous, points), network(image, previous, points)
        maps = click_maps(points, image.shape[2:], 5).numpy()
    stride = int(data["logits_stride"])
    assert np.abs(head.numpy() - data["head_out"]).max() < 1e-5
    assert np.abs(logits.numpy()[..., ::stride, ::stride] - data["logits"]).max() < 1e-5
    assert (maps == np.unpackbits(data["click_maps_packed"])[: maps.size].reshape(maps.shape)).all()


@pytest.mark.parametrize("name", ["predictor_default", "predictor_zoom", "predictor_posinterp"])
def test_the_predictor_gives_the_recorded_probabilities(name, tmp_path):
    data = recorded(name)
    zoom = data["zoom_in_params"]
    segmenter = SimpleClick(
        network=recorded_network(data, tmp_path / "released.pth"),
        target_size=tuple(int(side) for side in data["target_size"]),
        with_flip=bool(data["with_flip"]),
        zoom_threshold=zoom.get("prob_thresh", 0.5),
        min_crop_size=zoom.get("min_crop_size", 200),
    )
    (embedding,) = segmenter.embed([data["image_u8"]])
    height, width = data["image_u8"].shape[:2]
    count, stride = len(data["clicks"]), int(data["prob_stride"])
    masks = np.unpackbits(data["masks_packed"])[: count * height * width].reshape(count, height, width)
    memory, clicks = None, []
    for step, (is_positive, y, x) in enumerate(data["clicks"].tolist()):
        clicks.append(Click(x, y, bool(is_positive)))
        (mask,), (memory,) = segmenter.predict([embedding], [clicks], [memory])
        region = memory.region
        assert [region.top, region.bottom, region.left, region.right] == data["rois"][step].tolist()
        assert np.abs(memory.probabilities[::stride, ::stride].numpy() - data["probs"][step]).max() < 1e-4
        assert (mask == masks[step]).all()


def test_positions_are_resized_as_recorded():
    data = recorded("pos_embed")
    for number, case in enumerate(data["cases"]):
        table = torch.from_numpy(data[f"in_{number}"])
        resized = resize_positions(table, tuple(case["grid_in"]), tuple(case["grid_out"]))
        assert np.abs(resized.numpy() - data[f"out_{number}"]).max() < 1e-6


@pytest.mark.parametrize("name", ["plainvit_xtiny448", "plainvit_base448", "plainvit_large448", "plainvit_huge448"])
def test_the_published_sizes_have_the_published_names_and_shapes(name):
    facts = KEYS[name]
    values = {key: entry["value"] for key, entry in facts["config_params"].items()}
    backbone = values["backbone_params"]
    with torch.device("meta"):
        network = SimpleClickNet(
            SimpleClickConfig(
                image_size=448,
                patch_size=backbone["patch_size"][0],
                embed_dim=backbone["embed_dim"],
                depth=backbone["depth"],
                num_heads=backbone["num_heads"],
                out_dims=tuple(values["neck_params"]["out_dims"]),
                head_channels=values["head_params"]["channels"],
            )
        )
    published = {
        key.replace("{i}", str(block)): shape
        for key, shape in facts["keys"].items()
        for block in range(facts["depth"] if "{i}" in key else 1)
    }
    ours = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert ours.items() <= published.items()
    unused = {key.split(".")[1] for key in published.keys() - ours.keys()}
    assert unused == {"cls_token", "fc_norm", "head", "up_conv1", "up_conv2"}


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return SimpleClickNet(TINY).eval()


def test_our_own_folder_comes_back_equal(tiny, tmp_path):
    save_simpleclick(tiny, tmp_path / "ours")
    again = SimpleClick.from_checkpoint(tmp_path / "ours", threshold=0.4, device="cpu").network
    assert again.config == TINY
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in tiny.state_dict().items())


class Bomb:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_nothing_in_a_file_is_run(tiny, tmp_path, capsys):
    write_released(tmp_path / "bomb.pth", TINY, tiny.state_dict(), loss=Bomb())
    with pytest.raises(ValueError, match=r"bomb.pth: holds .*print, which no SimpleClick checkpoint needs"):
        load_simpleclick(tmp_path / "bomb.pth")
    assert "never" not in capsys.readouterr().out
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"plain.pth: not a file of tensors that can be read"):
        load_simpleclick(tmp_path / "plain.pth")


def test_files_that_do_not_fit_name_the_tensor(tiny, tmp_path):
    state = tiny.state_dict()
    write_released(tmp_path / "a.pth", replace(TINY, embed_dim=48), state)
    with pytest.raises(ValueError, match=r"a.pth: .* the architecture in its config needs \["):
        load_simpleclick(tmp_path / "a.pth")
    write_released(tmp_path / "b.pth", TINY, {key: state[key] for key in list(state)[1:]})
    with pytest.raises(ValueError, match=rf"b.pth: {next(iter(state))} is not there"):
        load_simpleclick(tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"none: no such checkpoint"):
        load_simpleclick(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: has no config.json"):
        load_simpleclick(tmp_path / "empty")
    torch.save({"weights": {}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c.pth: key 'config' is missing"):
        load_simpleclick(tmp_path / "c.pth")


def test_states_of_many_sizes_share_one_batch(tiny):
    segmenter = SimpleClick(network=tiny, max_batch=3, device="cpu")
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((40, 70), (90, 50), (8, 8), (64, 64), (33, 47))
    ]
    embeddings = segmenter.embed(images)
    clicks = [[Click(3, 4), Click(5, 2, False)][: 1 + k % 2] for k in range(5)]
    calls = []
    hook = tiny.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    _, memories = segmenter.predict(embeddings, clicks, [None] * 5)
    hook.remove()
    assert calls == [6, 4], "three states with their mirrors, then two"
    for k in range(5):
        (mask,), (memory,) = segmenter.predict([embeddings[k]], [clicks[k]], [None])
        assert mask.shape == images[k].shape[:2]
        assert (memory.probabilities - memories[k].probabilities).abs().max() < 1e-5
    with pytest.raises(ValueError, match="clicks only, no box"):
        segmenter.predict(embeddings[:1], [()], [None], [Box(0, 0, 4, 4)])


def test_a_given_mask_is_seen_by_the_next_click(tiny):
    segmenter = SimpleClick(network=tiny, device="cpu")
    image = np.random.default_rng(1).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    (embedding,) = segmenter.embed([image])
    mask = np.zeros((300, 400), bool)
    mask[10:60, 20:90] = True
    (memory,) = segmenter.remember([embedding], [mask])
    _, (after,) = segmenter.predict([embedding], [[Click(50, 30)]], [memory])
    assert after.region.bottom < 299 and after.region.right < 399, "the crop is cut around the given mask"
    assert memory.region is None and (memory.probabilities.numpy() == mask).all()
    assert memory.extent == (10, 59, 20, 89), "first and last row, first and last column"
    (nothing,) = segmenter.remember([embedding], [np.zeros_like(mask)])
    _, (after,) = segmenter.predict([embedding], [[Click(50, 30)]], [nothing])
    assert nothing.extent is None and (after.region.bottom, after.region.right) == (299, 399), "the whole picture"


@pytest.mark.parametrize(
    "wrong, message",
    [({"depth": 6}, "multiple of 4"), ({"num_heads": 5}, "does not split"), ({"image_size": 70}, "not a multiple")],
)
def test_unsound_architectures_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **wrong)


@pytest.fixture(scope="module")
def drawings():
    return [
        RefShapes(subset=name, split="val", limit=6)[k] for name in ("refshapes", "refshapes-thin") for k in range(6)
    ]


def first_click_ious(segmenter, samples):
    clicks = [[next_click(sample.target, np.zeros_like(sample.target))] for sample in samples]
    masks, _ = segmenter.predict(segmenter.embed([s.image for s in samples]), clicks, [None] * len(samples))
    return [iou(mask, sample.target) for mask, sample in zip(masks, samples, strict=True)]


def test_the_shipped_weights_find_most_of_a_drawing_with_one_click(drawings):
    ious = first_click_ious(SimpleClick.from_checkpoint("simpleclick_nano", device="cpu", with_flip=False), drawings)
    assert np.mean(ious) > 0.7, "0.86 and 0.76 over 1,000 samples each"


def test_bfloat16_changes_a_few_pixels_only(drawings):
    exact, rounded = (
        SimpleClick.from_checkpoint("simpleclick_nano", device="cpu", with_flip=False, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    embeddings = exact.embed([drawings[0].image])
    clicks = [[next_click(drawings[0].target, np.zeros_like(drawings[0].target))]]
    (_, (first,)), (_, (second,)) = (segmenter.predict(embeddings, clicks, [None]) for segmenter in (exact, rounded))
    apart = (first.probabilities - second.probabilities).abs()
    assert 0 < apart.mean() < 0.01
    with pytest.raises(ValueError, match=r"precision=float16 on cpu"):
        SimpleClick(network=exact.network, device="cpu", precision="float16")


def test_weights_that_were_cut_off_and_sides_that_do_not_split_are_told_at_once(tiny, tmp_path):
    save_simpleclick(tiny, tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"model.safetensors: cannot be read .*; copy it again"):
        load_simpleclick(tmp_path)
    with pytest.raises(ValueError, match=r"target_size=\(496, 496\): sides that split into equal windows"):
        SimpleClick(network=tiny, target_size=(496, 496), device="cpu")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_was_cut_off_is_named(tiny, tmp_path, share):
    write_released(tmp_path / "whole.pth", TINY, tiny.state_dict())
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(len(content) * share)])
    for load in (load_simpleclick, load_sam):
        with pytest.raises(ValueError, match=r"cut.pth: not a file of tensors that can be read, or cut off .*again"):
            load(tmp_path / "cut.pth")
    (tmp_path / "hello.pth").write_text("hello")
    for load in (load_simpleclick, load_sam):
        with pytest.raises(ValueError, match=r"hello.pth: "):
            load(tmp_path / "hello.pth")
    for odd in ([], {"state_dict": {}, "config": None}, {"state_dict": {}, "config": {"class": "x"}}):
        torch.save(odd, tmp_path / "odd.pth")
        with pytest.raises(ValueError, match=r"odd.pth: "):
            load_simpleclick(tmp_path / "odd.pth")
    torch.save({"image_encoder.patch_embed.proj.weight": torch.zeros(3)}, tmp_path / "rank.pth")
    with pytest.raises(ValueError, match=r"rank.pth: .*patch_embed.proj.weight is \[3\]"):
        load_sam(tmp_path / "rank.pth")

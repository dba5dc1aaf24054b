"""Osprey against numbers recorded from the published network, its checkpoints, and nano, its small sibling."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from segagent.dialogue import Observation, load_dialogue
from segagent.mllm import Osprey
from segagent.mllm.convnext import ConvNeXt
from segagent.mllm.osprey_network import OspreyConfig, OspreyNetwork, file_tensors, from_file_name, position_table
from segagent.mllm.testing import TINY_NANO, WORDS
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.types import RefusedError

KEYS = json.loads((Path(__file__).parents[1] / "fixtures" / "osprey" / "keys.json").read_text())
TRUNK = "model.vision_tower.vision_tower.visual.trunk."
# CLIP's ConvNeXt-L and Vicuna-7B
RELEASED = OspreyConfig(
    image_size=512,
    tower_dims=(192, 384, 768),
    tower_depths=(3, 3, 27),
    width=4096,
    depth=32,
    heads=32,
    mlp_width=11008,
    vocab_size=32002,
)


@pytest.mark.parametrize("name", ["vision_64", "vision_96"])
def test_features_and_visual_tokens_are_the_recorded_ones(recorded, recorded_state, name):
    data = recorded(f"osprey/{name}")
    config, state = data["config"], recorded_state(data)
    tower = ConvNeXt(dims=config["dims"], depths=config["depths"])
    tower.load_state_dict(
        {key.removeprefix(TRUNK): value for key, value in state.items() if key.startswith((f"{TRUNK}st",))}
    )
    pixels = torch.from_numpy(data["pixel_values"])
    with torch.inference_mode():
        features = tower.features(pixels)
    for wanted, got in zip(("res3", "res4", "res5"), features[1:], strict=True):
        np.testing.assert_allclose(got, data[wanted], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(features[0].mean((2, 3)), data["res2_mean"], rtol=1e-3, atol=1e-4)

    network = OspreyNetwork(
        OspreyConfig(
            image_size=config["image_size"],
            tower_dims=config["dims"][:3],
            tower_depths=config["depths"][:3],
            width=config["hidden_size"],
            depth=1,
            heads=2,
            mlp_width=16,
            vocab_size=10,
        )
    )
    ours = {from_file_name(key): value for key, value in state.items()}
    missing, _ = network.load_state_dict(ours, strict=False)
    assert all(key.startswith("language.") for key in missing)
    with torch.inference_mode():
        np.testing.assert_allclose(network.tower(pixels), data["flat_tokens"], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(network.visual_tokens(pixels), data["visual_tokens"], rtol=1e-3, atol=1e-4)


def test_pixels_are_the_recorded_ones(recorded, folders):
    data = recorded("osprey/preprocess")
    for number, case in enumerate(data["cases"]):
        model = Osprey.from_checkpoint(folders["osprey"], device="cpu")
        model.network.config = replace(model.network.config, image_size=case["size"])
        pixels = model.pixels(data[f"image_{number}"])
        np.testing.assert_allclose(pixels, data[f"pixel_values_{number}"], rtol=1e-3, atol=1e-4)


def test_the_released_model_has_the_recorded_names_and_shapes():
    with torch.device("meta"):
        network = OspreyNetwork(RELEASED)
    shapes = {key: list(tensor.shape) for key, tensor in file_tensors(network)}
    depths = (3, 3, 27)
    expected = {}
    for key, shape in KEYS["vision"].items():
        stage = int(key.split("stages.")[1][0]) if "stages." in key else None
        if ".head." in key or stage == 3:
            continue
        for block in range(depths[stage]) if "{i}" in key else [0]:
            expected[key.replace("{i}", str(block))] = shape
    vision = {key: shape for key, shape in shapes.items() if "vision_tower" in key or "mm_projector" in key}
    assert vision == expected
    llama = {key for key in shapes if key not in vision}
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    for name in (*(f"self_attn.{name}" for name in names), "mlp.gate_proj", "mlp.up_proj", "input_layernorm"):
        assert f"model.layers.31.{name}.weight" in llama
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= llama and len(llama) == 32 * 9 + 3
    assert network.config.num_visual_tokens == 1024


def test_weights_off_the_path_are_reported_and_skipped(folders, tmp_path, caplog, observe):
    shutil.copytree(folders["osprey"], tmp_path / "full")
    weights = load_file(tmp_path / "full" / "model.safetensors")
    extra = {"mask_extractor.res2.weight": torch.zeros(4, 8), "model.mask_extractor.feat_linear.bias": torch.zeros(4)}
    extra[f"{TRUNK}stages.3.blocks.0.gamma"] = torch.zeros(3)
    save_file(weights | extra, tmp_path / "full" / "model.safetensors")
    with caplog.at_level(logging.INFO):
        full = Osprey.from_checkpoint(tmp_path / "full", device="cpu")
    assert "3 tensors are not used here and were skipped" in caplog.text and "mask_extractor" in caplog.text
    bare = Osprey.from_checkpoint(folders["osprey"], device="cpu")
    observation = observe("released_llava")
    assert full.generate([observation], max_new_tokens=6) == bare.generate([observation], max_new_tokens=6)


def test_a_released_folder_speaks_the_released_dialogue(folders, observe):
    model = Osprey.from_checkpoint(folders["osprey"], device="cpu")
    assert model.dialogue == "released_llava"
    tokens = model.prompt_tokens(observe("released_llava"))
    image = [place for place, token in enumerate(tokens) if token == -200]
    assert tokens[0] == 1 and len(image) == 16 and image == list(range(image[0], image[0] + 16))
    before, after = model.tokenizer.decode(tokens[1 : image[0]]), model.tokenizer.decode(tokens[image[-1] + 1 :])
    assert before.endswith("the human's questions. USER: ")
    assert after.startswith("\nYou are a highly skilled") and after.endswith("as follows: the red star. ASSISTANT:")


@pytest.mark.parametrize("shards", ["bin", "safetensors"])
def test_sharded_weights_are_read(folders, tmp_path, shards, observe):
    shutil.copytree(folders["osprey"], tmp_path / "sharded", ignore=shutil.ignore_patterns("model.safetensors"))
    weights = list(load_file(folders["osprey"] / "model.safetensors").items())
    stem = "pytorch_model" if shards == "bin" else "model"
    places = {}
    for number, part in enumerate((dict(weights[::2]), dict(weights[1::2])), 1):
        name = f"{stem}-0000{number}-of-00002.{shards}"
        (torch.save if shards == "bin" else save_file)(part, tmp_path / "sharded" / name)
        places |= dict.fromkeys(part, name)
    index = tmp_path / "sharded" / f"{stem}.{shards}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    split, whole = (Osprey.from_checkpoint(folder, device="cpu") for folder in (index.parent, folders["osprey"]))
    observation = observe("released_llava")
    assert split.generate([observation], max_new_tokens=6) == whole.generate([observation], max_new_tokens=6)
    next((tmp_path / "sharded").glob("*-00002-of*")).unlink()
    with pytest.raises(ValueError, match=r"index.json names .*-00002-of-00002.* not there"):
        Osprey.from_checkpoint(tmp_path / "sharded", device="cpu")


def test_folders_that_cannot_be_loaded_say_what_is_wrong(folders, tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json"):
        Osprey.from_checkpoint(tmp_path, device="cpu")

    def broken(name, source="osprey"):
        return shutil.copytree(folders[source], tmp_path / name)

    (broken("weightless") / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="weightless: has no weights"):
        Osprey.from_checkpoint(tmp_path / "weightless", device="cpu")
    (broken("wordless") / "tokenizer.model").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer.model"):
        Osprey.from_checkpoint(tmp_path / "wordless", device="cpu")
    (broken("garbled") / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match="not a sentencepiece model"):
        Osprey.from_checkpoint(tmp_path / "garbled", device="cpu")
    (broken("cut") / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"model.safetensors: cannot be read"):
        Osprey.from_checkpoint(tmp_path / "cut", device="cpu")
    words = json.loads((broken("strange", "nano") / "words.json").read_text())
    (tmp_path / "strange" / "words.json").write_text(
        json.dumps({**words, "pieces": words["pieces"] + [" new"] * 1 + ["q"]})
    )
    with pytest.raises(ValueError, match=r"tokenizer has 59 tokens, its weights embed 57: .* different checkpoints"):
        Osprey.from_checkpoint(tmp_path / "strange", device="cpu")
    weights = load_file(broken("partial") / "model.safetensors")
    weights.pop("model.mm_projector.0.bias")
    save_file(weights, tmp_path / "partial" / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 tensors are missing, the first is projector.0.bias"):
        Osprey.from_checkpoint(tmp_path / "partial", device="cpu")
    content = json.loads((broken("other") / "config.json").read_text())
    for change, message in (
        ({"num_hidden_layers": 1}, r"config.json leaves out \d+ weights of the decoder, such as .*layers\.1\."),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, r"rope_scaling=.*; only rope_scaling=None was released"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, r"rope_type=yarn; only rope_type=default"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu; only hidden_act=silu"),
        ({"attention_bias": True}, "attention_bias=True; only attention_bias=False"),
        ({"num_attention_heads": 0}, r"config.json: has a value that cannot be"),
        ({"hidden_size": None}, r"config.json: has a value that cannot be"),
    ):
        (tmp_path / "other" / "config.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            Osprey.from_checkpoint(tmp_path / "other", device="cpu")
    content.pop("rope_theta", None)
    content["rope_parameters"] = {"rope_type": "default", "rope_theta": 5e5}
    (tmp_path / "other" / "config.json").write_text(json.dumps(content))
    assert Osprey.from_checkpoint(tmp_path / "other", device="cpu").network.config.rope_theta == 5e5


# --- nano ---------------------------------------------------------------------------------------------------------


def test_nano_saved_and_loaded_says_the_same(folders, tmp_path, observe):
    model = Osprey.from_checkpoint(folders["nano"], device="cpu")
    model.save(tmp_path / "again")
    again = Osprey.from_checkpoint(tmp_path / "again", device="cpu")
    observations = [observe("nano", seed=seed) for seed in range(3)]
    assert model.generate(observations) == again.generate(observations) and again.dialogue == "nano"
    assert json.loads((tmp_path / "again" / "config.json").read_text())["segagent"]["family"] == "nano"
    for name in ("config.json", "model.safetensors", "words.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folders["nano"] / name).read_bytes()


def test_nano_reads_the_description_before_the_picture(folders, observe):
    model = Osprey.from_checkpoint(folders["nano"], device="cpu")
    tokens = model.prompt_tokens(observe("nano", "the red star"))
    assert tokens == [model.tokenizer.begin, *model.tokenizer.encode("the red star"), *[-200] * 16]


def first_visual_tokens(network, batch):
    """What the first layer makes of each row's first visual token, `[B, D]`."""
    seen = []
    handle = network.language.model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        network(**batch)
    handle.remove()
    places = (batch["input_ids"] == -200).int().argmax(1)
    return seen[0][torch.arange(len(places)), places]


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_with_prefix_attention_a_cell_knows_of_those_below_it(folders, observe, kernel):
    model = Osprey.from_checkpoint(folders["nano"], device="cpu")
    model.network.language.set_attn_implementation(kernel)
    batch = model.encode([observe("nano", "the red star"), observe("nano", "star")], ["Finish", "Finish"])
    answered = dict(batch) | {"input_ids": batch["input_ids"].clone()}
    answered["input_ids"][:, -2] = 0  # answers are not seen by what stands before them
    before = first_visual_tokens(model.network, batch)
    torch.testing.assert_close(first_visual_tokens(model.network, answered), before)
    model.network.config = replace(model.network.config, attention="causal")
    alone = first_visual_tokens(model.network, batch)
    with torch.no_grad():
        model.network.positions[-1] += 1.0  # the last cell
    torch.testing.assert_close(first_visual_tokens(model.network, batch), alone)
    model.network.config = replace(model.network.config, attention="prefix")
    assert not torch.allclose(first_visual_tokens(model.network, batch), before, atol=1e-4)


def test_rows_about_one_picture_share_its_visual_tokens(folders, observe):
    model = Osprey.from_checkpoint(folders["nano"], device="cpu")
    first, again, other = (observe("nano", text) for text in ("the red star", "star", "red star"))
    other = replace(other, image=255 - other.image)
    batch = model.encode([first, other, again], ["Finish"] * 3)
    assert batch["pixel_values"].shape[0] == 2 and batch["pictures"].tolist() == [0, 1, 0]
    with torch.inference_mode():
        together = model.network(**batch).logits
        for row, observation in enumerate((first, other, again)):
            alone = model.encode([observation], ["Finish"])
            assert "pictures" not in alone
            logits = model.network(**alone).logits[0]
            torch.testing.assert_close(together[row, : len(logits)], logits, rtol=1e-4, atol=1e-4)


def test_initial_scales_make_features_positions_and_words_alike():
    network = OspreyNetwork(replace(TINY_NANO, vocab_size=100, width=128, positions="sinusoidal"))
    words = network.language.get_input_embeddings().weight
    assert words.std().item() == pytest.approx(128**-0.5, rel=0.05)
    tokens = network.project(network.tower(torch.randn(4, 3, 32, 32)))
    for values in (tokens, network.positions):
        assert values.square().mean().sqrt().item() == pytest.approx(128**-0.5, rel=0.05)
    assert not network.positions.requires_grad and network.language.lm_head.weight is words
    linear = network.language.model.layers[0].mlp.up_proj.weight
    assert linear.std().item() == pytest.approx(128**-0.5, rel=0.05)


def test_position_codes_tell_all_cells_apart():
    table = nn.functional.normalize(position_table(24, 64, 0.1))
    likeness = table @ table.T - 2 * torch.eye(24 * 24)
    assert likeness.max() < 0.999, "two cells have almost the same code"
    near, far = likeness[0, 1], likeness[0, 23]
    assert near > far


def test_random_weights_follow_from_the_seed(folders):
    tokenizer = Osprey.from_checkpoint(folders["nano"], device="cpu").tokenizer
    first, again, other = (Osprey.new(TINY_NANO, tokenizer, seed=seed, device="cpu").network for seed in (1, 1, 2))
    for one, two in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.language.lm_head.weight, other.language.lm_head.weight)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_size": 30}, "image_size=30: a multiple of the tower's stride 8"),
        ({"heads": 5}, "width=32: a multiple of heads=5"),
        ({"positions": "rotary"}, "positions='rotary': choose none, sinusoidal, learnt"),
        ({"attention": "full"}, "attention='full': choose causal, prefix"),
        ({"template": "{image}"}, "needs {image} once, and {prompt}"),
    ],
)
def test_an_architecture_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}")):
        replace(TINY_NANO, **change)


def test_images_and_places_that_disagree_are_refused(folders):
    network = Osprey.from_checkpoint(folders["nano"], device="cpu").network
    with pytest.raises(ValueError, match="1 images give 16 visual tokens, the token ids have 3 places"):
        network.embed(torch.tensor([[1, -200, -200, -200]]), torch.zeros(1, 3, 32, 32))


def test_nano_learns_to_answer_what_it_was_told(folders, observe):
    """Labels, prompt and decoding fit together: two pictures, two answers, learnt by heart."""
    model = Osprey.from_checkpoint(folders["nano"], device="cpu")
    observations = [observe("nano", "the left thing", 1), observe("nano", "the right red star", 2)]
    answers = ["Current IOU: 7, Positive point: (5, 337)", "Current IOU: 85, Negative point: (912, 40)"]
    batch = model.encode(observations, answers)
    optimizer = torch.optim.AdamW(model.network.parameters(), 1e-2)
    for _ in range(60):
        loss = model.network(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in model.network.parameters())
    replies = model.generate(observations)
    assert [reply[0].text for reply in replies] == answers and all(reply[0].finished for reply in replies)
    assert all(reply[0].log_prob > -0.5 for reply in replies)
    forced = model.generate(observations, prefixes=["Current IOU: 7,", "Current IOU: "])
    assert [reply[0].text for reply in forced] == [" Positive point: (5, 337)", "85, Negative point: (912, 40)"]


def test_a_system_text_is_put_where_the_template_says(folders, observe):
    model = Osprey.from_checkpoint(folders["nano"], device="cpu")
    model._before = "{system} {prompt}"
    observation = Observation(observe("nano").image, "the big", "red star")
    assert model.prompt_tokens(observation)[1:5] == model.tokenizer.encode("the big red star")


def test_a_nano_may_have_more_rows_than_words(tmp_path):
    tokenizer = WordTokenizer.of(load_dialogue("nano"), WORDS)
    config = replace(TINY_NANO, vocab_size=tokenizer.size + 500)
    Osprey.new(config, tokenizer, dialogue="nano", device="cpu").save(tmp_path)
    assert Osprey.from_checkpoint(tmp_path, device="cpu").network.config.vocab_size == tokenizer.size + 500


def test_a_strip_is_refused_before_it_is_made_huge(folders, observe):
    model = Osprey.from_checkpoint(folders["nano"])
    model.pixels(np.zeros((2, 400, 3), np.uint8))
    with pytest.raises(RefusedError, match="picture of 401x2: one side is more than 200 times the other"):
        model.pixels(np.zeros((2, 401, 3), np.uint8))

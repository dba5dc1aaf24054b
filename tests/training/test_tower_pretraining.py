"""Dense pre-training of the tower, and the loss that gives visual tokens the words of what they show."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from segagent.configuration import build, compose_config
from segagent.data.mixture import Mixture
from segagent.data.refshapes import RefShapes, description_words
from segagent.dialogue import load_dialogue
from segagent.mllm.osprey import Osprey
from segagent.mllm.testing import TINY_NANO, write_qwen_vl_chat
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.training.cell_points import deepest_points, region_depths
from segagent.training.collate import SftBatch
from segagent.training.tower_pretraining import TowerPictures
from segagent.training.visual_words import ATTRIBUTES, NOTHING, CellWords, VisualWords

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = [
    "data=refshapes", "data.size=128", "data.limit=4", "device=cpu", "mllm_network.image_size=32",
    "mllm_network.tower_dims=[8,16]", "mllm_network.tower_depths=[1,1]", "mllm_network.width=32",
    "mllm_network.depth=2", "mllm_network.heads=2", "mllm_network.mlp_width=64", "train.steps=4",
    "train.batch_size=2", "train.workers=0", "train.checkpoint_every=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pretrain_tower", ROOT / "scripts" / "pretrain_tower.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(*overrides):
    config = compose_config("pretrain_tower", [*SETTINGS, *overrides])
    OmegaConf.resolve(config)
    return config


def nano():
    tokenizer = WordTokenizer.of(load_dialogue("nano"), description_words())
    return Osprey.new(TINY_NANO, tokenizer, dialogue="nano", device="cpu")


def table(folder):
    return [row.split(",")[:8] for row in (folder / "train.csv").read_text().splitlines()]


def test_cells_are_named_after_what_covers_them():
    dataset = RefShapes(subset="refshapes", split="train", limit=6, size=128)
    words = CellWords(dataset, 16)
    for index in range(0, 6, 2):
        scene, (colors, nouns, patterns) = dataset.scene(index), words(index).reshape(3, 16, 16)
        assert ((colors == NOTHING) == (patterns == NOTHING)).all() and (colors != NOTHING).any()
        for y, x in np.ndindex(16, 16):
            cell = scene.labels[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            most = max(range(len(scene.things)), key=lambda thing: (cell == thing).sum())
            thing = scene.things[most]
            assert (colors[y, x] != NOTHING) == ((cell == most).mean() >= 0.1)
            if colors[y, x] == NOTHING:
                continue
            said = [names[of[y, x]] for names, of in zip(ATTRIBUTES.values(), (colors, nouns, patterns), strict=True)]
            assert said == [thing.color, thing.noun, thing.pattern]
    mixed = Mixture(datasets={"a": dataset, "b": RefShapes(subset="refshapes-thin", split="train", limit=6, size=128)})
    assert np.array_equal(CellWords(mixed, 16)(0), words(0))
    with pytest.raises(ValueError, match=r"list does not know what its pictures show: set train.auxiliary=0"):
        CellWords([], 16)


def test_every_color_and_thing_has_a_word_of_its_own():
    mllm = nano()
    loss = VisualWords(mllm)
    for tokens in loss.tokens:
        assert len({tuple(ids) for ids in tokens}) == len(tokens)
        assert not any(mllm.tokenizer.unknown in ids for ids in tokens)


def test_visual_tokens_are_pulled_towards_their_words():
    mllm = nano()
    loss, random = VisualWords(mllm), np.random.default_rng(0)
    image = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    observation = load_dialogue("nano").observe(image, np.zeros((32, 32), bool), "red star")
    tensors = mllm.encode([observation], ["Finish"])
    labels = tensors.pop("labels")
    cells = torch.full((1, 3, 16), NOTHING)
    cells[0, 0, :8], cells[0, 1, :8] = 3, 5
    batch = SftBatch((0,), tensors, labels, torch.ones(1), cells)
    optimizer = torch.optim.Adam(mllm.network.projector.parameters(), lr=1e-2)
    made = []
    for _ in range(20):
        mllm.network(**tensors)
        value = loss(mllm.network, batch)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        made.append(float(value))
    assert made[-1] < 0.5 * made[0]
    with torch.no_grad():
        seen = mllm.network.project(mllm.network.tower(tensors["pixel_values"]))[0]
        words = mllm.network.language.get_input_embeddings().weight[[ids[0] for ids in loss.tokens[0]]]
        nearest = (torch.nn.functional.normalize(seen, dim=-1) @ torch.nn.functional.normalize(words, dim=-1).T).argmax(
            1
        )
    assert (nearest[:8] == 3).all()
    mllm.network(**tensors)
    nothing = loss(mllm.network, SftBatch((0,), tensors, labels, torch.ones(1), torch.full((1, 3, 16), NOTHING)))
    assert float(nothing) == 0


def test_rows_that_share_a_picture_are_asked_for_their_words_all_the_same():
    mllm = nano()
    loss, random = VisualWords(mllm), np.random.default_rng(0)
    image = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    rows = [load_dialogue("nano").observe(image, np.zeros((32, 32), bool), text) for text in ("red star", "a star")]
    cells = torch.full((2, 3, 16), NOTHING)
    cells[0, 0, :8], cells[1, 0, 4:] = 3, 2

    def of(places):
        tensors = mllm.encode([rows[place] for place in places], ["Finish"] * len(places))
        labels = tensors.pop("labels")
        assert len(tensors["pixel_values"]) == 1
        mllm.network(**tensors)
        return float(loss(mllm.network, SftBatch(tuple(places), tensors, labels, torch.ones(1), cells[places])))

    assert of([0, 1]) == pytest.approx((8 * of([0]) + 12 * of([1])) / 20, rel=1e-5)


def test_every_picture_comes_a_second_time_as_in_a_mirror():
    dataset = RefShapes(subset="refshapes", split="train", limit=4, size=128)
    pictures = TowerPictures(dataset=dataset, mllm=nano(), dialogue=load_dialogue("nano"), masked=0.0, seed=0)
    for number in (0, 4):
        plain, words, shares, points = pictures[number]
        mirrored, other_words, other_shares, other_points = pictures[number + 1]
        assert torch.equal(mirrored, plain.flip(-1)) and not torch.equal(mirrored, plain)
        assert torch.equal(other_words.view(3, 4, 4), words.view(3, 4, 4).flip(-1))
        assert torch.equal(other_shares.view(2, 4, 4), shares.view(2, 4, 4).flip(-1))
        wanted, found = points.view(2, 4, 4, 3).flip(2), other_points.view(2, 4, 4, 3)
        assert torch.equal(found[..., 2], wanted[..., 2]) and found[0].any() and not found[1].any()
        alone = wanted[..., 2] > wanted[..., 2].median()  # where pixels are equally deep, a mirror shows another first
        assert ((found + wanted)[..., 0][alone] - 9).abs().median() <= 1
    assert not torch.equal(pictures[4][0], pictures[0][0])
    painted = TowerPictures(dataset=dataset, mllm=nano(), dialogue=load_dialogue("nano"), masked=1.0, seed=0)
    assert not torch.equal(painted[0][2][0], painted[1][2][0].view(4, 4).flip(1).reshape(-1))
    assert painted[0][3][1].any(), "what is painted beside the thing"


def test_a_cell_is_asked_where_a_click_on_the_thing_that_it_shows_would_go():
    dataset = RefShapes(subset="refshapes", split="train", limit=4, size=128)
    plain, painted = (
        TowerPictures(dataset=dataset, mllm=nano(), dialogue=load_dialogue("nano"), masked=masked, seed=0)
        for masked in (0.0, 1.0)
    )
    first = plain.first
    labels, things = dataset.scene(first).labels, plain.words.things(first)
    for thing in set(things.tolist()) - {NOTHING}:
        alone = torch.from_numpy(deepest_points(region_depths(labels == thing)[None], 4)[0])
        assert torch.equal(plain[0][3][0][things == thing], alone[things == thing])
    assert not plain[0][3][0][things == NOTHING].any()
    lacking, free = (torch.stack([of[number][3][0, :, 2] for number in range(8)]) for of in (painted, plain))
    assert (lacking <= free).all() and (lacking < free).any(), "what is painted needs no click"


def test_only_the_tower_moves_and_the_folder_is_a_model(script, tmp_path):
    assert script.main(settings(f"out={tmp_path / 'run'}")) == 0
    assert script.main(settings(f"out={tmp_path / 'new'}", "train.steps=0")) == 0
    trained, new = (Osprey.from_checkpoint(tmp_path / name / "best", device="cpu").network for name in ("run", "new"))
    after, before = trained.state_dict(), new.state_dict()
    moved = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {"tower"} and len(table(tmp_path / "run")) == 5


def test_the_tower_of_a_model_learns_on(script, tmp_path):
    script.main(settings(f"out={tmp_path / 'first'}"))
    begun = ["mllm=nano", f"mllm.path={tmp_path / 'first' / 'best'}"]
    assert script.main(settings(f"out={tmp_path / 'next'}", "seed=1", *begun)) == 0
    before, after = (
        Osprey.from_checkpoint(tmp_path / name / "best", device="cpu").network.state_dict()
        for name in ("first", "next")
    )
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[0] for name in moved} == {"tower"}
    assert "tower.stages.1.0.0.weight" in moved and "tower.stages.0.0.0.weight" in moved
    write_qwen_vl_chat(tmp_path / "qwen")
    other = settings(f"out={tmp_path / 'no'}", "mllm=qwen_vl_chat", f"mllm.path={tmp_path / 'qwen'}")
    with pytest.raises(ValueError, match=r"mllm=.*QwenVLChat.*only the tower of nano and its like"):
        script.main(other)


def test_a_decoder_begins_anew_behind_a_trained_tower(script, tmp_path):
    script.main(settings(f"out={tmp_path / 'new'}", "seed=1", "train.steps=0"))
    script.main(settings(f"out={tmp_path / 'trained'}"))
    behind = ["mllm=nano", f"mllm.path={tmp_path / 'trained' / 'best'}", "new_decoder=true", "seed=1", "train.steps=0"]
    assert script.main(settings(f"out={tmp_path / 'behind'}", *behind)) == 0
    new, trained, anew = (
        Osprey.from_checkpoint(tmp_path / name / "best", device="cpu").network.state_dict()
        for name in ("new", "trained", "behind")
    )
    assert all(torch.equal(anew[n], (trained if n.startswith("tower.") else new)[n]) for n in anew)
    with pytest.raises(ValueError, match=r"new_decoder=true: of which model is the tower\? Set mllm="):
        script.main(settings(f"out={tmp_path / 'none'}", "new_decoder=true"))


def test_a_killed_run_goes_on_bitwise(script, tmp_path):
    script.main(settings(f"out={tmp_path / 'whole'}"))
    script.make_trainer(settings(f"out={tmp_path / 'killed'}")).run(stop_at=2)
    script.main(settings(f"out={tmp_path / 'killed'}", "resume=true"))
    whole, killed = (Osprey.from_checkpoint(tmp_path / n / "best", device="cpu").network for n in ("whole", "killed"))
    assert all(torch.equal(value, killed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert table(tmp_path / "whole") == table(tmp_path / "killed")


def test_the_tower_learns_colors(script, tmp_path):
    trainer = script.make_trainer(
        settings(f"out={tmp_path}", "train.steps=40", "train.batch_size=4", "train.warmup=2", "train.lr=0.01")
    )
    trainer.run()
    rows = [[float(value) for value in row] for row in table(tmp_path)[1:]]
    assert np.mean([row[1] for row in rows[-5:]]) < 0.6 * np.mean([row[1] for row in rows[:5]])


def test_the_shipped_architecture_fits_its_budget():
    config = compose_config("pretrain_tower")
    tokenizer = WordTokenizer.of(load_dialogue("nano"), description_words())
    with torch.device("meta"):
        network = Osprey.new(build(config.mllm_network), tokenizer, device="meta").network
    assert sum(parameter.numel() for parameter in network.parameters()) * 4 <= 15e6, "15 MB as float32"

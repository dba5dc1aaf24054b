"""Weights to begin with."""

import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from segagent.segmenters.simpleclick_checkpoint import save_simpleclick
from segagent.segmenters.simpleclick_vit import resize_positions
from segagent.training.vit_init import fresh_network, load_pretrained


@pytest.fixture
def mae(small):
    """A ViT in MAE's names on a 7 x 7 grid, with what MAE files hold besides."""
    state = {
        key: torch.randn_like(value) for key, value in fresh_network(small.config, 1).backbone.state_dict().items()
    }
    state["pos_embed"] = torch.randn(1, 50, small.config.embed_dim)
    return state | {"cls_token": torch.zeros(1, 1, 16), "norm.weight": torch.ones(16), "decoder.x": torch.zeros(2)}


@pytest.mark.parametrize("form", ["pth", "nested", "safetensors"])
def test_pretrained_weights_arrive_and_positions_are_resized(form, mae, small, tmp_path):
    path = tmp_path / ("mae.safetensors" if form == "safetensors" else "mae.pth")
    if form == "safetensors":
        save_file(mae, path)
    else:
        torch.save({"model": mae} if form == "nested" else mae, path)
    network, untouched = fresh_network(small.config, 2), fresh_network(small.config, 2)
    assert "blocks.3.attn.qkv.weight" in load_pretrained(network, path)
    ours = network.backbone.state_dict()
    assert torch.equal(ours["pos_embed"], resize_positions(mae["pos_embed"], (7, 7), (4, 4)))
    assert all(torch.equal(ours[key], mae[key]) for key in ours if key != "pos_embed")
    assert torch.equal(network.head.conv_seg.weight, untouched.head.conv_seg.weight)


def test_a_checkpoint_folder_fills_the_whole_network(small, tmp_path):
    save_simpleclick(fresh_network(small.config, 5), tmp_path / "ours")
    network = fresh_network(small.config, 6)
    load_pretrained(network, tmp_path / "ours")
    wanted = fresh_network(small.config, 5).state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


def test_fresh_weights_depend_on_the_seed_alone(small):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fresh_network(small.config, 9)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    second, other = fresh_network(small.config, 9), fresh_network(small.config, 10)
    assert torch.equal(first.head.conv_seg.weight, second.head.conv_seg.weight)
    assert not torch.equal(first.head.conv_seg.weight, other.head.conv_seg.weight)
    places = first.backbone.pos_embed[0, 1:]
    assert len(torch.unique(places.round(decimals=4), dim=0)) == 16, "every place of the grid is told apart"
    assert fresh_network(replace(small.config, out_dims=[8, 8, 8, 8]), 0).config == small.config


def test_files_that_do_not_fit_are_named(mae, small, tmp_path):
    network = fresh_network(small.config, 0)
    with pytest.raises(ValueError, match=r"init_from=.*none.pth: no such file"):
        load_pretrained(network, tmp_path / "none.pth")
    torch.save({key: value for key, value in mae.items() if "blocks.2" not in key}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth: blocks\.2\.\S+ is missing"):
        load_pretrained(network, tmp_path / "a.pth")
    torch.save(mae | {"patch_embed.proj.weight": torch.zeros(16, 3, 4, 4)}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b.pth: patch_embed.proj.weight is \[16, 3, 4, 4\], this network needs"):
        load_pretrained(network, tmp_path / "b.pth")
    torch.save(mae | {"pos_embed": torch.zeros(1, 12, 16)}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"pos_embed is \[1, 12, 16\]"):
        load_pretrained(network, tmp_path / "c.pth")


def test_nothing_in_a_file_is_run(small, tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return (print, ("this must never run",))

    torch.save({"model": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps([1]))
    for name in ("bomb.pth", "plain.pth"):
        with pytest.raises(ValueError, match=f"{name}: "):
            load_pretrained(fresh_network(small.config, 0), tmp_path / name)
    assert "never" not in capsys.readouterr().out

"""scripts/train_segmenter.py: any data in, a folder out that the predictor loads."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from segagent.configuration import compose_config
from segagent.masks import encode_rle
from segagent.segmenters.simpleclick import SimpleClick

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("blank_plots")
TINY = [
    "network.image_size=32", "network.patch_size=8", "network.embed_dim=16", "network.num_heads=2",
    "network.out_dims=[8,8,8,8]", "network.head_channels=8", "network.detail_channels=[8,8,8]", "device=cpu",
    "train.steps=2", "train.batch_size=2", "train.workers=0", "validation.limit=2", "validation.max_clicks=2",
    "wandb.mode=disabled",
]  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_segmenter", ROOT / "scripts" / "train_segmenter.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(*overrides):
    config = compose_config("train_segmenter", [*TINY, *overrides])
    OmegaConf.resolve(config)
    return config


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Ten photographs as a mask folder and as COCO instances."""
    root = tmp_path_factory.mktemp("photos")
    images, annotations = [], []
    for folder in ("images", "masks"):
        (root / folder).mkdir()
    for number in range(10):
        image = np.random.default_rng(number).integers(0, 100, (48, 64, 3), dtype=np.uint8)
        mask = np.zeros((48, 64), bool)
        mask[10:34, 14 + number : 44] = True
        image[mask] += 140
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / "masks" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 48, "width": 64})
        segmentation = encode_rle(mask)
        annotations.append({"id": number, "image_id": number, "category_id": 1, "segmentation": segmentation})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    (root / "instances.json").write_text(json.dumps(content))
    return root


def sources(photos):
    return {
        "mask_folders": ["data=mask_folders", f"data.root={photos}"],
        "coco": ["data=coco", f"data.annotations={photos / 'instances.json'}", f"data.images={photos / 'images'}"],
        "refshapes": ["data=refshapes", "data.size=128"],
        "refshapes_mix": ["data.datasets.short.size=128"],
    }


@pytest.mark.parametrize("name", ["mask_folders", "coco", "refshapes", "refshapes_mix"])
def test_every_source_trains_and_the_best_weights_load(name, photos, script, tmp_path):
    out = tmp_path / "run"
    assert script.main(settings(f"out={out}", *sources(photos)[name])) == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"best", "checkpoints", "train.csv", "validation.csv", "curve.png", "train.config.yaml"}
    assert SimpleClick.from_checkpoint(out / "best", device="cpu").target_size == (32, 32)
    assert OmegaConf.load(out / "train.config.yaml").train.steps == 2


def test_the_end_of_a_source_or_another_one_is_held_out(photos, script):
    dataset = [*range(10)]
    assert script.held_out(dataset, settings("out=x")) == (8, [8, 9])
    assert script.held_out(dataset, settings("out=x", "validation.limit=100")) == (8, [8, 9]), "a fifth at most"
    assert script.held_out(dataset, settings("out=x", "validation.limit=0")) == (10, [])
    other = [value.replace("data", "validation.data", 1) for value in sources(photos)["mask_folders"][1:]]
    length, samples = script.held_out(dataset, settings("out=x", "data@validation.data=mask_folders", *other))
    assert length == 10 and [sample.sample_id for sample in samples] == ["0", "1"]
    with pytest.raises(ValueError, match=r"none to hold out; give validation\.limit=0"):
        script.held_out([1], settings("out=x"))


def test_a_run_is_never_lost_and_resumed_with_its_own_settings_only(photos, script, tmp_path):
    given = [f"out={tmp_path / 'run'}", *sources(photos)["mask_folders"]]
    script.main(settings(*given))
    before = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"is there already; say resume=true"):
        script.main(settings(*given))
    with pytest.raises(ValueError, match=r"other settings: optimizer.lr \(0.0015 then, 0.1 now\)"):
        script.main(settings(*given, "resume=true", "optimizer.lr=0.1"))
    script.main(settings(*given, "resume=true"))
    assert (tmp_path / "run" / "best" / "model.safetensors").read_bytes() == before
    script.main(settings(*given, "overwrite=true", "seed=1"))
    assert (tmp_path / "run" / "best" / "model.safetensors").read_bytes() != before


def test_weights_to_begin_with_are_used(photos, script, tmp_path):
    given = sources(photos)["mask_folders"]
    script.main(settings(f"out={tmp_path / 'a'}", *given))
    begun = script.make_trainer(settings("out=b", f"init_from={tmp_path / 'a' / 'best'}", *given), tracker=None)
    best = SimpleClick.from_checkpoint(tmp_path / "a" / "best", device="cpu").network
    assert (begun.network.head.conv_seg.weight == best.head.conv_seg.weight).all()


def test_the_shipped_network_fits_its_budget(script):
    network = script.fresh_network(script.build(compose_config("train_segmenter").network), 0)
    assert sum(value.numel() for value in network.state_dict().values()) * 4 <= 8e6, "8 MB as float32"

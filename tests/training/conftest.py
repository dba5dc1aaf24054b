"""A run small enough to train in a second: bright rectangles, a network of a few thousand weights."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from segagent.segmenters.simpleclick_vit import SimpleClickConfig
from segagent.training.augmentation import CropAugmentation
from segagent.training.click_rounds import ClickRounds
from segagent.training.click_sampling import ClickSampler
from segagent.training.optimization import OptimizerSettings
from segagent.training.parallel import Processes
from segagent.training.segmenter_batch import TrainingCrops
from segagent.training.segmenter_checkpoint import RunFolder
from segagent.training.segmenter_trainer import SegmenterTrainer, TrainSettings
from segagent.training.segmenter_validation import SegmenterValidation
from segagent.training.tracking import Tracker
from segagent.training.vit_init import fresh_network
from segagent.types import Sample

CONFIG = SimpleClickConfig(
    image_size=32,
    patch_size=8,
    embed_dim=16,
    depth=4,
    num_heads=2,
    out_dims=(8, 8, 8, 8),
    head_channels=8,
    click_radius=2,
    detail_channels=(8, 8, 8),
)


class Rectangles:
    """Sample k: a bright rectangle on dark noise, in a place that k decides."""

    def __init__(self, length=40, size=(40, 48)):
        self.length, self.size, self.loaded = length, size, []

    def __len__(self):
        return self.length

    def sample_id(self, index):
        return f"r{index}"

    def __getitem__(self, index):
        self.loaded.append(index)
        random = np.random.default_rng(index)
        image = random.integers(0, 90, (*self.size, 3), dtype=np.uint8)
        y, x = random.integers(2, 20, 2)
        target = np.zeros(self.size, bool)
        target[y : y + 14, x : x + 16] = True
        image[target] = random.integers(150, 255, 3)
        return Sample(sample_id=self.sample_id(index), image=image, text="", target=target, image_key=index)


def make_crops(dataset=None, **changes):
    dataset = Rectangles() if dataset is None else dataset
    arguments = {
        "dataset": dataset,
        "length": len(dataset),
        "size": CONFIG.image_size,
        "augmentation": CropAugmentation(min_crop=16),
        "sampler": ClickSampler(max_negative=1),
        "seed": 3,
    }
    return TrainingCrops(**arguments | changes)


def make_trainer(path, *, optimizer=None, validation=True, config=CONFIG, **settings):
    samples = [Rectangles()[index] for index in range(4)]
    return SegmenterTrainer(
        network=fresh_network(config, 3),
        crops=make_crops(),
        rounds=ClickRounds(sampler=ClickSampler(), max_rounds=2, seed=3),
        folder=RunFolder(path),
        settings=TrainSettings(
            **{"steps": 6, "batch_size": 4, "workers": 0, "validate_every": 2, "checkpoint_every": 3, "seed": 3}
            | settings
        ),
        optimizer=optimizer or OptimizerSettings(lr=3e-3, warmup=2),
        validation=SegmenterValidation(samples=samples, max_clicks=3, predictor={"min_crop_size": 16})
        if validation
        else None,
        processes=Processes("cpu"),
        tracker=Tracker(mode="disabled", project="tests", folder=path, settings={}),
    )


@pytest.fixture(scope="session")
def small():
    """The parts above, for tests that cannot import this file."""

    class Parts:
        config = CONFIG
        Rectangles = Rectangles
        crops = staticmethod(make_crops)
        trainer = staticmethod(make_trainer)

    return Parts


@pytest.fixture(scope="session")
def sft(tmp_path_factory):
    """What `sft_run.py` makes; not to be changed by a test."""
    spec = importlib.util.spec_from_file_location("sft_run", Path(__file__).with_name("sft_run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SftParts(tmp_path_factory.mktemp("sft"))


@pytest.fixture
def run_until_killed():
    """`run_until_killed(trainer, steps=5)`: runs a trainer that is interrupted before its next step."""

    def run(trainer, steps):
        step, done = trainer._step, []

        def dies(*arguments):
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(step(*arguments))
            return done[-1]

        trainer._step = dies
        with pytest.raises(KeyboardInterrupt):
            trainer.run()

    return run

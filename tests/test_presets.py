"""preset=released and preset=released_fixed: what they set, what may be changed on top, and the files they lead to."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from segagent.configuration import build, compose_config, names
from segagent.data.images import through_jpeg
from segagent.data.predictions import prediction_record
from segagent.environment import Environment
from segagent.masks import encode_rle
from segagent.metrics import score
from segagent.mllm.base import Completion
from segagent.policies.agent import Agent
from segagent.rollout import rollout

GIVEN = ["out=x.json", "data.annotations=a.json", "data.images=d", "segmenter.path=w.pth"]


def test_released_is_the_released_evaluation():
    config = compose_config("evaluate", ["preset=released", *GIVEN])
    assert config.data._target_.endswith("SegAgentJson") and config.data.limit == 5000
    assert config.segmenter._target_.endswith("SimpleClick.from_checkpoint")
    assert (config.segmenter.threshold, config.segmenter.zoom_threshold) == (0.49, 0.5)
    assert config.segmenter.target_size is None, "the network's own 448"
    assert (config.policy.dialogue, config.policy.temperature, config.policy.jpeg_quality) == ("released_qwen", 0, 75)
    assert config.rollout.max_clicks == 7 and not config.policy.takes_boxes and config.data.unknown == "name"


def test_png_pictures_are_skipped_in_one_and_not_in_the_other():
    pattern = compose_config("evaluate", ["preset=released", *GIVEN]).data.include
    found = [name for name in ("a.jpg", "a.png", "b.png.jpg", "dir.png/a.jpeg") if re.search(pattern, name)]
    assert found == ["a.jpg"], "the released test is whether .png stands anywhere in the name"
    assert compose_config("evaluate", ["preset=released_fixed", *GIVEN]).data.include is None


def test_fixed_differs_in_the_accidents_only():
    released, fixed = (
        compose_config("evaluate", [f"preset={name}", *GIVEN]) for name in ("released", "released_fixed")
    )
    assert (fixed.data.limit, fixed.policy.jpeg_quality) == (None, None)
    for config in (released, fixed):
        config.data.limit = config.data.include = config.data.unknown = config.policy.jpeg_quality = None
    assert released == fixed


@pytest.mark.parametrize("name", names("preset"))
def test_single_settings_and_members_may_be_changed(name):
    config = compose_config("evaluate", [f"preset={name}", "rollout.max_clicks=3", "segmenter=sam", "data.limit=9"])
    assert (config.rollout.max_clicks, config.data.limit) == (3, 9) and "Sam" in config.segmenter._target_


@pytest.mark.parametrize(
    "settings",
    [
        ["preset=released", "data=coco", "~data.unknown", "data.annotations=a", "data.images=d"],
        ["preset=released", "data=refcoco", "data.root=d", "~data.include", "~data.unknown"],
        ["preset=released_fixed", "data=refcoco", "data.root=d"],
    ],
    ids=" ".join,
)
def test_other_data_goes_with_a_preset(settings):
    data = compose_config("evaluate", [*settings, "out=x.json"]).data
    with pytest.raises(ValueError, match="d: no such folder"):
        build(data)


class Talker:
    """Says the same of every picture, and keeps what it saw."""

    dialogue = "released_qwen"

    def __init__(self):
        self.seen = []

    def generate(self, observations, *, num_samples=1, **_):
        self.seen += [observation.image for observation in observations]
        return [[Completion("Positive point: (500, 500)")] for _ in observations]


def test_the_model_sees_the_picture_through_jpeg(sample_of, discs):
    talkers = []
    for quality in (None, 75):
        talkers.append(Talker())
        policy = Agent(mllm=talkers[-1], jpeg_quality=quality)
        list(rollout([sample_of()], policy=policy, environment=Environment(segmenter=discs, max_clicks=1)))
    plain, jpeg = (talker.seen[0] for talker in talkers)
    assert (jpeg == through_jpeg(plain, 75)).all() and (jpeg != plain).any() and jpeg.shape == plain.shape
    with pytest.raises(ValueError, match="jpeg_quality=0: give 1 to 95"):
        Agent(mllm=Talker(), jpeg_quality=0)


def test_through_jpeg_is_what_pillow_writes_by_default(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.jpg")
    assert (through_jpeg(image, 75) == np.array(Image.open(tmp_path / "a.jpg"))).all()


@pytest.mark.parametrize("name", names("preset"))
def test_predictions_are_scored_by_the_released_scorer_without_change(name, tmp_path, discs):
    mask = np.zeros((40, 60), bool)
    mask[15:25, 25:35] = True
    annotation = {"object_id": 5, "caption": ["cup", "the cup"], "segmentation": encode_rle(mask)}
    record = {"image_name": "a", "height": 40, "width": 60, "gt_ann": annotation}
    (tmp_path / "a.json").write_text(json.dumps({"data": [record]}))
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a.jpg")
    given = [f"data.annotations={tmp_path / 'a.json'}", f"data.images={tmp_path}", "segmenter.path=w", "out=x"]
    config = compose_config("evaluate", [f"preset={name}", *given])
    dataset = build(config.data)
    policy = Agent(mllm=Talker(), jpeg_quality=config.policy.jpeg_quality)
    environment = Environment(segmenter=discs, max_clicks=config.rollout.max_clicks)
    made = [one for batch in rollout(list(dataset), policy=policy, environment=environment) for one in batch]
    records = [json.loads(json.dumps(prediction_record(one))) for one in made]
    result = score(records).official()
    assert len(records) == 2 and (result.chosen >= 0).all() and 0 < result.class_iou < 1

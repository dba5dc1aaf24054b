import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segagent.data.segagent_json import image_path_of
from segagent.data.segagent_samples import SegAgentJson
from segagent.masks import decode_rle

EXAMPLE = Path(__file__).parents[1] / "fixtures" / "trace_record" / "example_record.json"
RECORDS = json.loads(EXAMPLE.read_text())["data"]


@pytest.fixture
def images(tmp_path):
    for record in RECORDS:
        path = tmp_path / "images" / image_path_of(record["image_name"])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((record["height"], record["width"], 3), np.uint8)).save(path)
    return tmp_path / "images"


def test_every_caption_of_a_released_file_is_a_sample(images):
    data = SegAgentJson(annotations=str(EXAMPLE), images=str(images))
    captions = [r["gt_ann"]["caption"] for r in RECORDS]
    texts = [text for caption in captions for text in ([caption] if isinstance(caption, str) else caption)]
    assert [data[k].text for k in range(len(data))] == texts and data.sample_id(0) == "0"
    sample = data[0]
    assert (sample.target == decode_rle(RECORDS[0]["gt_ann"]["segmentation"])).all()
    assert sample.image_name == 581857 and sample.image_key.endswith("COCO_train2014_000000581857.jpg")
    assert len(SegAgentJson(annotations=str(EXAMPLE), images=str(images), limit=1)) == 1


def test_unknown_captions_become_cut_names_as_the_released_evaluation_makes_them(images, tmp_path):
    records = [json.loads(json.dumps(RECORDS[0])) for _ in range(3)]
    for record, captions in zip(records, (["Unknown", "b"], ["a", "Unknown"], ["c"]), strict=True):
        record["gt_ann"]["caption"] = captions
    (tmp_path / "u.json").write_text(json.dumps({"data": records}))
    given = {"annotations": str(tmp_path / "u.json"), "images": str(images)}
    data = SegAgentJson(**given, unknown="name")
    cut = "mscoco/images/train2014/COCO_train2014_0000005818"
    assert [data[k].text for k in range(len(data))] == [cut, "a", "Unknown", "c"]
    assert [SegAgentJson(**given)[k].text for k in range(2)] == ["Unknown", "b"]
    with pytest.raises(ValueError, match="choose text or name"):
        SegAgentJson(**given, unknown="x")


def test_names_may_be_left_out_as_the_released_evaluation_does(images):
    with pytest.raises(ValueError, match=r"no record to work on \(data\.include='png\$'\)"):
        SegAgentJson(annotations=str(EXAMPLE), images=str(images), include="png$")


def test_what_is_missing_or_of_another_size_is_named(images, tmp_path):
    with pytest.raises(ValueError, match=r"none\.json: no such file \(data\.annotations\)"):
        SegAgentJson(annotations="none.json", images=str(images))
    with pytest.raises(ValueError, match=r"nowhere: no such folder \(data\.images\)"):
        SegAgentJson(annotations=str(EXAMPLE), images="nowhere")
    path = images / image_path_of(RECORDS[0]["image_name"])
    Image.fromarray(np.zeros((3, 5, 3), np.uint8)).save(path)
    data = SegAgentJson(annotations=str(EXAMPLE), images=str(images))
    with pytest.raises(ValueError, match=r"the picture is \[3, 5\] but record 0 of"):
        data[0]
    path.unlink()
    assert data.picture_path(0) == path, "told without being there"
    with pytest.raises(ValueError, match=r"000000581857\.jpg: no such image file"):
        SegAgentJson(annotations=str(EXAMPLE), images=str(images))[0]


def test_numbers_in_a_file_of_refclef_are_pictures_of_imageclef():
    assert image_path_of(19579, refclef=True) == "saiapr_tc-12/19/images/19579.jpg"
    assert image_path_of(19579) == "mscoco/images/train2014/COCO_train2014_000000019579.jpg"

import io
import json

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from segagent.data.hub_parquet import HubParquet

POLYGON = [2.0, 3.0, 8.0, 3.0, 8.0, 7.0, 2.0, 7.0]


def picture():
    buffer = io.BytesIO()
    Image.fromarray(np.full((12, 16, 3), 90, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def embedded(**changes):
    row = {
        "question_id": "7",
        "image": {"bytes": picture(), "path": "COCO_train2014_000000000001.jpg"},
        "question": "which",
        "answer": ["left cup", "the cup"],
        "segmentation": POLYGON,
        "bbox": [2.0, 3.0, 6.0, 4.0],
        "iscrowd": 0,
        "file_name": "COCO_train2014_000000000001_0.jpg",
    }
    return row | changes


def linked(**changes):
    row = {
        "sentences": [{"raw": "Left cup", "sent": "left cup", "sent_id": 1, "tokens": ["left", "cup"]}],
        "raw_anns": json.dumps({"segmentation": [POLYGON], "id": 11}),
        "raw_image_info": json.dumps({"file_name": "a.jpg", "height": 12, "width": 16}),
        "ann_id": 11,
        "ref_id": 1,
    }
    return row | changes


def write(root, rows, name="val-00000-of-00001.parquet"):
    (root / "data").mkdir(exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), root / "data" / name, row_group_size=2)
    return str(root)


def test_pictures_inside_the_file(tmp_path):
    root = write(tmp_path, [embedded(), embedded(question_id="8"), embedded(answer=["third"])])
    data = HubParquet(root=root)
    assert [data[k].text for k in range(len(data))] == ["left cup", "the cup", "left cup", "the cup", "third"]
    assert [data.sample_id(k).split("/", 1)[1] for k in (0, 1, 2, 4)] == ["0/0", "0/0#1", "0/1", "1/0"]
    sample = data[2]
    assert sample.target.sum() == 24 and sample.target[3:7, 2:8].all() and sample.object_id == "8"
    assert sample.image.shape == (12, 16, 3) and abs(int(sample.image.mean()) - 90) < 3
    assert data.picture_path(2) is None
    assert data[0].image_key == data[2].image_key, "of one picture"
    assert [HubParquet(root=root, level="instance")[k].text for k in range(3)] == ["left cup", "left cup", "third"]


def test_pictures_of_one_name_are_told_apart_and_a_text_is_no_list(tmp_path):
    red, blue = (io.BytesIO(), io.BytesIO())
    for buffer, color in ((red, (200, 0, 0)), (blue, (0, 0, 200))):
        Image.fromarray(np.full((12, 16, 3), color, np.uint8)).save(buffer, "PNG")
    rows = [
        embedded(image={"bytes": buffer.getvalue(), "path": "image.png"}, answer="red cup", file_name=None)
        for buffer in (red, blue)
    ]
    data = HubParquet(root=write(tmp_path, rows))
    assert [data[k].text for k in range(len(data))] == ["red cup"] * 2
    assert data[0].image_key != data[1].image_key
    with pytest.raises(ValueError, match="limit=-1: give a whole number of samples, 1 or more, or null for all"):
        HubParquet(root=str(tmp_path), limit=-1)


def test_pictures_beside_the_file(tmp_path):
    root = write(tmp_path, [linked()], "validation-00000-of-00001-ab.parquet")
    with pytest.raises(ValueError, match=r"these files hold no pictures; say data\.images=DIR"):
        HubParquet(root=root, split="validation")
    (tmp_path / "train2014").mkdir()
    (tmp_path / "train2014" / "a.jpg").write_bytes(picture())
    for images in (None, str(tmp_path / "train2014"), str(tmp_path)):
        data = HubParquet(root=root, split="validation", images=images if images != str(tmp_path) else None)
        sample = data[0]
        assert str(data.picture_path(0)) == sample.image_key
        assert sample.target.sum() == 24 and (sample.text, sample.object_id) == ("left cup", 11)


def test_files_of_several_shards_are_read_in_order(tmp_path):
    write(tmp_path, [embedded(answer=["b"])], "val-00001-of-00002.parquet")
    write(tmp_path, [embedded(answer=["c"])], "testA-00000-of-00001.parquet")
    data = HubParquet(root=write(tmp_path, [embedded(answer=["a"])], "val-00000-of-00002.parquet"))
    assert [data[k].text for k in range(len(data))] == ["a", "b"]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="none: no such folder"):
        HubParquet(root=str(tmp_path / "none"))
    root = write(tmp_path, [embedded()], "testA-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"no file val-\*\.parquet .*there: testA"):
        HubParquet(root=root)
    write(tmp_path, [{"text": "x"}])
    with pytest.raises(ValueError, match="columns text: need image, answer, segmentation or sentences"):
        HubParquet(root=root)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image": {"bytes": b"junk", "path": "a.jpg"}}, r"val.*: row 0 of group 0: not an image"),
        ({"image": {"bytes": None, "path": "a.jpg"}}, "row 0 of group 0: the row holds no picture"),
        ({"segmentation": POLYGON[:5]}, "row 0 of group 0: broken polygons .a polygon with 5 numbers"),
        ({"segmentation": []}, "row 0 of group 0: empty target"),
        ({"answer": [""]}, "row 0 of group 0: a sentence without text"),
    ],
)
def test_unsound_rows_are_named_when_loaded(tmp_path, changes, message):
    data = HubParquet(root=write(tmp_path, [embedded(**changes)]))
    with pytest.raises(ValueError, match=message):
        data[0]


def test_a_file_cut_off_is_named(tmp_path):
    root = write(tmp_path, [embedded()])
    path = tmp_path / "data" / "val-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"val-00000-of-00001\.parquet: not a parquet file"):
        HubParquet(root=root)


def test_two_datasets_in_one_folder_are_told_apart(tmp_path):
    for name in ("RefCOCO", "RefCOCOplus"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, [embedded()])
    with pytest.raises(ValueError, match=r"RefCOCO/data/val-\S+ and \S+: have one name; data.root is to be"):
        HubParquet(root=str(tmp_path))

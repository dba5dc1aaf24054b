import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segagent.data.coco import Coco
from segagent.masks import encode_rle
from segagent.types import Box

BOX = [2, 3, 6, 4]


@pytest.fixture
def folder(tmp_path):
    """Two pictures; polygons, compressed and plain RLE, a crowd, captions."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((12, 16, 3), 90, np.uint8)).save(tmp_path / "images" / name)
    block = np.zeros((12, 16), bool)
    block[3:7, 2:8] = True
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[-1], block.ravel(order="F").astype(int), [-1]]))))
    crowd = np.zeros((12, 16), bool)
    crowd[:, 6:] = True
    polygon = [2, 3, 8, 3, 8, 7, 2, 7]
    common = {"image_id": 1, "category_id": 7, "iscrowd": 0, "bbox": BOX, "area": 24}
    content = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 12, "width": 16},
            {"id": 2, "file_name": "b.png", "height": 12, "width": 16},
        ],
        "categories": [{"id": 7, "name": "cup"}, {"id": 8, "name": "plate"}],
        "annotations": [
            {**common, "id": 10, "segmentation": [polygon], "caption": ["left cup", "the cup"]},
            {**common, "id": 11, "image_id": 2, "segmentation": encode_rle(block), "caption": "a cup"},
            {
                **common,
                "id": 12,
                "category_id": 8,
                "segmentation": {"size": [12, 16], "counts": runs.tolist()},
                "caption": "a plate",
            },
            {**common, "id": 13, "iscrowd": 1, "segmentation": encode_rle(crowd)},
        ],
    }

    def write(change=lambda content: None):
        copy = json.loads(json.dumps(content))
        change(copy)
        (tmp_path / "instances.json").write_text(json.dumps(copy))
        return {"annotations": str(tmp_path / "instances.json"), "images": str(tmp_path / "images")}

    write.root, write.block = tmp_path, block
    return write


def test_a_picture_that_is_listed_twice_alike_is_one(folder):
    assert len(Coco(**folder(lambda c: c["images"].append(dict(c["images"][0]))))) == len(Coco(**folder()))


def test_crowd_regions_can_be_left_out_altogether(folder):
    data = Coco(**folder(), crowd="leave_out")
    assert [data.sample_id(k) for k in range(len(data))] == ["10", "11", "12"]
    assert data[0].void is None and (data[0].target == folder.block).all()


def test_polygons_and_both_rles_give_one_mask(folder):
    data = Coco(**folder(), crowd="sample")
    assert [data.sample_id(k) for k in range(len(data))] == ["10", "11", "12", "13"]
    for index in range(3):
        sample = data[index]
        assert (sample.target == folder.block).all() and sample.box == Box(2, 3, 8, 7) and sample.void is None
    assert (data[0].text, data[0].category, data[0].object_id, data[0].image_name) == ("cup", "cup", 10, "a.png")


def test_each_caption_is_a_sample_of_one_picture(folder):
    data = Coco(**folder(lambda c: c["annotations"].pop()), text="caption")
    assert [data.sample_id(k) for k in range(len(data))] == ["10", "10#1", "11", "12"]
    assert [data[k].text for k in range(2)] == ["left cup", "the cup"] and data[0].image is data[1].image
    assert len(Coco(**folder(), text="caption", limit=2)) == 2


def test_crowds_are_void_for_their_category_only(folder, caplog):
    with caplog.at_level(logging.WARNING):
        data = Coco(**folder())
    assert "1 crowd regions count as void" in caplog.text and len(data) == 3
    crowd, target = np.zeros((12, 16), bool), data[0].target
    crowd[:, 6:] = True
    assert (data[0].void == crowd & ~target).all() and (target & crowd).any(), "what is annotated is not cut off"
    assert data[1].void is None and data[2].void is None


def test_void_masks(folder):
    labels = np.zeros((12, 16), np.uint8)
    labels[3, 2], labels[0, 0] = 128, 255
    (folder.root / "void").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(labels).save(folder.root / "void" / name)
    data = Coco(**folder(), void_masks=str(folder.root / "void"))
    assert data[1].void.sum() == 1 and data[1].void[3, 2] and not data[1].target[3, 2]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("images"), "key 'images' is missing"),
        (lambda c: c["annotations"][0].pop("segmentation"), "annotation 10: key 'segmentation' is missing"),
        (lambda c: c["annotations"][0].pop("id"), "annotation number 0: key 'id' is missing"),
        (lambda c: c["annotations"].append(7), r"annotation number \d: expected a JSON object"),
        (lambda c: c.update(annotations={}), "annotation: expected a list of them"),
        (lambda c: c["images"][0].pop("id"), "image number 0: key 'id' is missing"),
        (lambda c: c["categories"][0].pop("name"), r"category \d+: key 'name' is missing"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), r"annotation 10: bbox \[1, 2\]: expected \[x, y, width"),
        (lambda c: c["annotations"][0].update(image_id=9), "annotation 10: image_id 9 is not among the images"),
        (lambda c: c["annotations"][0].update(category_id=9), "annotation 10: category_id 9"),
        (lambda c: c["annotations"][1].update(id=10), "annotation id 10 is there twice"),
        (lambda c: c["images"].append(c["images"][0] | {"file_name": "b.png"}), r"image id \d+ is there twice"),
        (lambda c: c.update(annotations=[]), "no annotation to work on"),
    ],
)
def test_unsound_files_are_refused_when_opened(folder, change, message):
    with pytest.raises(ValueError, match=message):
        Coco(**folder(change))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), "annotation 10: broken polygons"),
        (lambda c: c["annotations"][0].update(segmentation=[]), "annotation 10: empty target"),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [12, 16], "counts": [3, 4]}),
            "annotation 10: broken RLE: runs sum to 7, size 12x16 needs 192",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [16, 12], "counts": [192]}),
            r"annotation 10: RLE size \[16, 12\] but the image entry says \[12, 16\]",
        ),
        (
            lambda c: c["images"][0].update(height=13),
            r"a.png: the picture is \[12, 16\] but instances.json says \[13, 16\]",
        ),
        (lambda c: c["images"][0].update(file_name="../x.png"), "leads out of its folder"),
        (lambda c: c["images"][0].update(file_name="c.png"), "c.png: no such image file"),
    ],
)
def test_unsound_samples_are_refused_when_loaded(folder, change, message):
    data = Coco(**folder(change))
    with pytest.raises(ValueError, match=message):
        data[0]


def test_wrong_settings(folder):
    for wrong, message in (
        ({"text": "title"}, "choose category or caption"),
        ({"crowd": "skip"}, "choose void, sample or leave_out"),
        ({"images": "nowhere"}, "nowhere: no such folder"),
        ({"annotations": "none.json"}, "none.json: no such file"),
        ({"void_masks": "nowhere"}, "nowhere: no such folder"),
    ):
        with pytest.raises(ValueError, match=message):
            Coco(**{**folder(), **wrong})
    with pytest.raises(ValueError, match=r"annotation 13: has no 'caption'"):
        Coco(**folder(), text="caption", crowd="sample")


def test_an_empty_target_may_be_asked_for(folder):
    data = Coco(**folder(lambda c: c["annotations"][1].update(segmentation=[])), allow_empty=True)
    assert not data[1].target.any()


def test_only_files_that_match(folder):
    data = Coco(**folder(), include=r"^b\.")
    assert [data.sample_id(k) for k in range(len(data))] == ["11"]
    with pytest.raises(ValueError, match=r"no annotation to work on \(include"):
        Coco(**folder(), include="zebra")


def test_lvis_names_its_files_by_address(folder):
    def as_lvis(content):
        for entry in content["images"]:
            entry["coco_url"] = f"http://host/train2017/{entry.pop('file_name')}"

    (folder.root / "train2017").mkdir()
    for name in ("a.png", "b.png"):
        (folder.root / "images" / name).rename(folder.root / "train2017" / name)
    given = folder(as_lvis) | {"images": str(folder.root)}
    sample = Coco(**given)[0]
    assert sample.image_name == "train2017/a.png" and sample.target[3:7, 2:6].all()
    with pytest.raises(ValueError, match="image 1 has neither 'file_name' nor 'coco_url'"):
        Coco(**folder(lambda content: content["images"][0].pop("file_name")))


def test_the_file_of_a_picture_is_known_without_opening_it(folder, tmp_path):
    data = Coco(**folder())
    (tmp_path / "images" / "b.png").unlink()
    assert [data.picture_path(index).name for index in range(len(data))] == ["a.png", "b.png", "a.png"]
    assert data.picture_path(1).parent == tmp_path / "images"


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("annotations", {"caption": ["a", None]}, "caption None: expected a text"),
        ("annotations", {"caption": 5}, "caption 5: expected a text"),
        ("annotations", {"bbox": [0, 0, float("nan"), 1]}, r"bbox .*: expected \[x, y, width, height\]"),
        ("annotations", {"bbox": [0, 0, float("inf"), 1]}, r"bbox .*: expected \[x, y, width, height\]"),
        ("images", {"file_name": 5}, "file_name 5: expected a text"),
    ],
)
def test_values_of_another_type_are_refused_when_the_file_is_read(folder, part, change, message):
    with pytest.raises(ValueError, match=message):
        Coco(**folder(lambda content: content[part][0].update(change)))


def test_a_caption_without_a_word_is_none(folder):
    settings = folder(lambda content: content["annotations"][0].update(caption=["left cup", " "]))
    with pytest.raises(ValueError, match=r"annotation 10: an empty 'caption'; say data\.text=category"):
        Coco(**settings, text="caption")
    assert Coco(**settings)[0].text == "cup"


def test_a_category_that_is_a_number_and_a_mark_before_the_file(folder):
    settings = folder(lambda content: content["categories"][0].update(name=7))
    path = Path(settings["annotations"])
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert Coco(**settings)[0].text == "7"


def test_each_sample_shows_its_own_picture(folder):
    settings = folder()
    Image.fromarray(np.full((12, 16, 3), 20, np.uint8)).save(folder.root / "images" / "b.png")
    data = Coco(**settings)
    shown = {sample.image_name: int(sample.image[0, 0, 0]) for sample in (data[0], data[1], data[2], data[0])}
    assert shown == {"a.png": 90, "b.png": 20}

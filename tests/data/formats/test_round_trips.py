"""Every format: what is written comes back, and what a format cannot say is refused, told, or listed here."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from segagent.configuration import build, load_named, names
from segagent.data.formats.base import object_trajectory
from segagent.data.formats.yolo_seg import join_parts
from segagent.data.mask_folders import MaskFolders
from segagent.masks import decode_rle, encode_rle, iou, mask_to_polygons, polygons_to_mask
from segagent.types import Action, Click, EndReason, InitKind, Step

SIZE = (24, 32)


def block(top=4, left=3, bottom=12, right=11):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


def ring():
    mask = block(2, 14, 20, 30)
    mask[8:14, 19:25] = False
    return mask


def two_parts():
    return block() | block(16, 20, 22, 29)


def samples():
    facts = {"image_name": "dir/a.jpg", "category": "cup"}
    return [
        object_trajectory(block(), sample_id="7", text="left cup", object_id=7, **facts),
        object_trajectory(block(), sample_id="7#1", text="the cup on the left", object_id=7, **facts),
        object_trajectory(ring(), sample_id="8", text="a ring", object_id=8, image_name="dir/a.jpg", category="ring"),
        object_trajectory(two_parts(), sample_id="9", text="both", object_id=9, image_name="b.jpg", category="pair"),
    ]


def with_clicks(sample):
    mask = encode_rle(block(5))
    steps = (
        Step(Action(click=Click(5, 6, True), source="oracle"), mask, 0.0, 0.8),
        Step(Action(click=Click(3, 4, False), source="oracle"), sample.target, 0.8, 1.0),
    )
    return replace(sample, steps=steps, end_reason=EndReason.FINISHED)


def fmt(name, path, **options):
    return build(load_named("file_format", name), path=str(path), **options)


@pytest.fixture
def pictures(tmp_path):
    for name in ("a.jpg", "b.jpg", "dir/a.jpg"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "pictures" / name)
    return tmp_path / "pictures"


def same_objects(found, expected, keys):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.target == other.target and (one.height, one.width) == (other.height, other.width)
        for key in keys:
            assert getattr(one, key) == getattr(other, key), key


def test_our_file_holds_everything(tmp_path):
    void = encode_rle(block(0, 0, 2, 2))
    made = [replace(with_clicks(samples()[0]), void=void), *samples()[1:]]
    assert fmt("trajectories", tmp_path / "t.jsonl").write(made) == 4
    from segagent.data.trajectories import trajectory_to_json

    again = list(fmt("trajectories", tmp_path / "t.jsonl").read())
    assert [trajectory_to_json(one) for one in again] == [trajectory_to_json(one) for one in made]


def test_the_released_file_holds_targets_texts_and_clicks(tmp_path):
    made = [with_clicks(one) if one.sample_id == "7" else one for one in samples()]
    fmt("segagent_json", tmp_path / "o.json").write(made)
    again = list(fmt("segagent_json", tmp_path / "o.json").read())
    same_objects(again, made, ("text", "image_name", "object_id"))
    clicks = [[(step.action.click, step.mask, step.iou_after) for step in one.steps] for one in (again[0], made[0])]
    assert clicks[0] == clicks[1]
    fmt("segagent_json", tmp_path / "o2.json").write(again)
    assert (tmp_path / "o.json").read_text() == (tmp_path / "o2.json").read_text()


def test_coco_holds_targets_texts_and_ids_exactly(tmp_path):
    made = samples()
    assert fmt("coco", tmp_path / "c.json").write(made) == 4
    content = json.loads((tmp_path / "c.json").read_text())
    assert len(content["annotations"]) == 3, "two expressions of one object are one annotation"
    assert content["annotations"][0]["caption"] == ["left cup", "the cup on the left"]
    assert content["annotations"][0]["bbox"] == [3, 4, 8, 8] and content["annotations"][0]["area"] == 64
    keys = ("text", "image_name", "object_id", "sample_id", "category")
    same_objects(list(fmt("coco", tmp_path / "c.json").read()), made, keys)
    from segagent.data.coco import Coco

    (tmp_path / "dir").mkdir()
    for name in ("dir/a.jpg", "b.jpg"):
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / name)
    data = Coco(annotations=str(tmp_path / "c.json"), images=str(tmp_path), text="caption")
    assert [data[k].text for k in range(len(data))] == [one.text for one in made], "data=coco reads it"


def test_coco_of_others_is_read_with_polygons_and_without_crowds(tmp_path):
    entry = {"image_id": 1, "category_id": 1, "segmentation": [[3, 4, 11, 4, 11, 12, 3, 12]]}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 24, "width": 32}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [{"id": 5, **entry}, {"id": 6, "iscrowd": 1, **entry}],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    (one,) = fmt("coco", tmp_path / "c.json").read()
    assert (decode_rle(one.target) == block()).all() and (one.sample_id, one.text, one.object_id) == ("5", "cup", 5)
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5]]
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"annotation 5: broken polygons .*5 numbers"):
        list(fmt("coco", tmp_path / "c.json").read())


def test_a_coco_id_as_image_name_survives(tmp_path):
    made = [replace(samples()[0], image_name=581857)]
    fmt("coco", tmp_path / "c.json").write(made)
    name = json.loads((tmp_path / "c.json").read_text())["images"][0]["file_name"]
    assert name.endswith("COCO_train2014_000000581857.jpg")
    assert next(fmt("coco", tmp_path / "c.json").read()).image_name == 581857


def test_labelme_holds_masks_of_every_form_exactly(tmp_path):
    fmt("labelme", tmp_path / "l").write(samples())
    shapes = json.loads((tmp_path / "l" / "a.json").read_text())["shapes"]
    assert [shape["shape_type"] for shape in shapes] == ["polygon", "mask"], "one of an object; a ring is no polygon"
    again = list(fmt("labelme", tmp_path / "l").read())
    same_objects(again, samples(), ("text", "category", "image_name"))
    assert [one.sample_id for one in again] == ["a/0", "a/0#1", "a/1", "b/0"]


def test_labelme_of_others(tmp_path):
    content = {"imagePath": "..\\x\\a.jpg", "imageHeight": 24, "imageWidth": 32, "shapes": []}
    folder = tmp_path / "labels"
    folder.mkdir()
    content["shapes"] = [
        {"label": "cup", "points": [[3, 4], [11, 4], [11, 12], [3, 12]], "shape_type": "polygon"},
        {"label": "cup", "points": [[11, 12], [3, 4]], "shape_type": "rectangle"},
    ]
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "._a.json").write_bytes(b"\x00\xff of macOS")
    assert [made.image_name for made in fmt("labelme", folder).read()] == ["a.jpg"] * 2, "no pictures are needed"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"a.json: imagePath '../x/a.jpg' is not below .*empty \(images=DIR"):
        list(fmt("labelme", folder, images=str(tmp_path / "empty")).read())
    one, other = fmt("labelme", folder, images=str(tmp_path)).read()
    assert (decode_rle(one.target) == block()).all() and one.target == other.target
    assert (one.text, one.image_name) == ("cup", "x/a.jpg")
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "a.jpg").write_bytes(b"")
    for named in ("../x/a.jpg", "a.jpg", "/elsewhere/a.jpg", "C:\\elsewhere\\a.jpg"):
        (folder / "a.json").write_text(json.dumps(content | {"imagePath": named}))
        found = fmt("labelme", folder, images=str(tmp_path / "moved")).read()
        assert [made.image_name for made in found] == ["a.jpg"] * 2, named
    inner = tmp_path / "moved" / "labels"
    inner.mkdir()
    (inner / "a.json").write_text(json.dumps(content | {"imagePath": "a.jpg"}))
    found = fmt("labelme", inner, images=str(tmp_path / "moved")).read()
    assert [made.image_name for made in found] == ["a.jpg"] * 2, "the one that is there"
    for changes, message in (
        ({"shape_type": "line"}, "shape 0: shape_type 'line' has no area"),
        ({"points": [[1, 2], [3, 4]], "shape_type": "polygon"}, "shape 0: broken .a polygon with 4 numbers"),
        ({"points": [1, 2, 3]}, r"shape 0: points are not \[\[x, y\]"),
        ({"shape_type": "mask", "mask": "AAAA"}, "shape 0: broken"),
    ):
        broken = content | {"shapes": [content["shapes"][0] | changes]}
        (folder / "a.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=message):
            list(fmt("labelme", folder, images=str(tmp_path)).read())
    (folder / "a.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match=r"a.json: not text in UTF-8"):
        list(fmt("labelme", folder).read())


def test_labelme_finds_the_pictures_from_where_its_files_lie(tmp_path):
    with pytest.raises(ValueError, match="photos: no such folder; LabelMe's files say where the pictures are"):
        fmt("labelme", tmp_path / "out" / "l", images=str(tmp_path / "photos"))
    (tmp_path / "photos").mkdir()
    fmt("labelme", tmp_path / "out" / "l", images=str(tmp_path / "photos")).write(samples())
    named = json.loads((tmp_path / "out" / "l" / "a.json").read_text())["imagePath"]
    assert named == "../../photos/dir/a.jpg"
    again = fmt("labelme", tmp_path / "out" / "l", images=str(tmp_path / "photos")).read()
    same_objects(list(again), samples(), ("text", "category", "image_name"))


def test_crowd_regions_are_objects_where_asked_for(tmp_path, caplog):
    fmt("coco", tmp_path / "c.json").write(samples())
    content = json.loads((tmp_path / "c.json").read_text())
    content["annotations"][-1]["iscrowd"] = 1
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert len(list(fmt("coco", tmp_path / "c.json").read())) == 3
    assert "c.json: 1 crowd regions are left out; crowd=sample takes them" in caplog.text
    same_objects(list(fmt("coco", tmp_path / "c.json", crowd="sample").read()), samples(), ("text", "image_name"))
    with pytest.raises(ValueError, match="crowd='void': choose leave_out or sample"):
        fmt("coco", tmp_path / "c.json", crowd="void")


def test_masks_in_folders_are_of_the_pictures_of_their_names(tmp_path):
    for name in ("x/a", "y/a", "b"):
        for folder, suffix in (("masks", "png"), ("images", "jpg")):
            path = tmp_path / folder / f"{name}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(block().astype(np.uint8) * 255).save(path)
    (tmp_path / "images" / "b.jpg").unlink()
    assert [one.image_name for one in fmt("png_folders", tmp_path).read()] == ["b.png", "x/a.jpg", "y/a.jpg"]


def test_a_data_file_of_yolo_leaves_the_folder_to_be_that_of_the_file(tmp_path):
    fmt("yolo_seg", tmp_path).write(samples())
    assert "path" not in OmegaConf.load(tmp_path / "data.yaml")


def test_a_number_in_a_file_of_refclef_is_a_picture_of_imageclef(tmp_path):
    made = [replace(samples()[0], image_name=12345)]
    fmt("segagent_json", tmp_path / "refclef_val.json").write(made)
    (one,) = fmt("segagent_json", tmp_path / "refclef_val.json").read()
    assert one.image_name == "saiapr_tc-12/12/images/12345.jpg"


def test_yolo_holds_single_outlines_exactly_and_tells_what_it_cannot(tmp_path, pictures, caplog):
    fmt("yolo_seg", tmp_path / "y").write(samples())
    assert "1 of 3 masks have holes or parts" in caplog.text, "the ring; two parts are joined without a pixel lost"
    assert (tmp_path / "y" / "labels" / "b.txt").read_text().startswith("1 ")
    again = list(fmt("yolo_seg", tmp_path / "y", images=str(pictures)).read())
    assert [(one.text, one.image_name) for one in again] == [
        ("pair", "b.jpg"),
        ("cup", "dir/a.jpg"),
        ("ring", "dir/a.jpg"),
    ]
    for one, other in zip(again, [samples()[3], samples()[0], samples()[2]], strict=True):
        filled = polygons_to_mask(mask_to_polygons(decode_rle(other.target)), *SIZE)
        assert (decode_rle(one.target) == filled).all()
    fmt("yolo_seg", tmp_path / "y2").write(again)
    assert (tmp_path / "y2/labels/dir/a.txt").read_text() == (tmp_path / "y/labels/dir/a.txt").read_text()
    with pytest.raises(ValueError, match="leads out of its folder"):
        fmt("yolo_seg", tmp_path / "y3").write([replace(samples()[0], image_name="../a.jpg")])


def test_bridges_between_parts_cover_next_to_nothing():
    random = np.random.default_rng(0)
    for _ in range(20):
        mask = np.zeros((40, 60), bool)
        for _ in range(4):
            y, x = random.integers(0, 30), random.integers(0, 50)
            mask[y : y + random.integers(2, 10), x : x + random.integers(2, 10)] = True
        polygons = mask_to_polygons(mask)
        plain = polygons_to_mask(polygons, *mask.shape)
        joined = polygons_to_mask([join_parts(polygons).ravel().tolist()], *mask.shape)
        assert iou(joined, plain) > 0.9


@pytest.mark.parametrize(
    "line, message",
    [
        ("0 0.1 0.1 0.2 0.2", "4 numbers: need x, y of at least 3 corners"),
        ("0 0.1 0.1 0.2 0.2 0.3", "5 numbers"),
        ("3 0.1 0.1 0.2 0.2 0.3 0.3", r"class 3 is not named in data\.yaml"),
        ("0 0.1 0.1 0.2 0.2 0.3 1.5", r"in \[0, 1\]"),
        ("cup 0.1", r"expected CLASS x y"),
    ],
)
def test_unsound_yolo_lines_are_named(tmp_path, pictures, line, message):
    (tmp_path / "y" / "labels").mkdir(parents=True)
    (tmp_path / "y" / "data.yaml").write_text("names: [cup]\n")
    (tmp_path / "y" / "labels" / "a.txt").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=rf"a\.txt, line 2: .*{message}"):
        list(fmt("yolo_seg", tmp_path / "y", images=str(pictures)).read())


def test_png_folders_hold_void_and_ids_and_are_what_mask_folders_reads(tmp_path, pictures):
    void = encode_rle(block(0, 0, 2, 2))
    made = [replace(one, void=void if one.sample_id == "8" else None) for one in samples()]
    fmt("png_folders", tmp_path / "p", images=str(pictures)).write(made)
    again = {one.sample_id: one for one in fmt("png_folders", tmp_path / "p").read()}
    expected = {one.sample_id: one for one in made}
    ordered = [again[name] for name in expected]
    same_objects(ordered, made, ("text", "object_id", "category", "image_name", "void"))
    options = {"root": str(tmp_path / "p"), "texts": str(tmp_path / "p" / "texts.json"), "void_value": 128}
    data = MaskFolders(**options)
    assert {data[k].text for k in range(len(data))} == {one.text for one in made}
    with pytest.raises(ValueError, match=r"two samples would be written to a_b\.png"):
        fmt("png_folders", tmp_path / "q").write([replace(made[0], sample_id=name) for name in ("a/b", "a#b")])


@pytest.mark.parametrize("name", sorted(set(names("file_format")) - {"trajectories"}))
def test_a_target_is_needed(tmp_path, name):
    with pytest.raises(ValueError, match="has no target"):
        fmt(name, tmp_path / "x").write([replace(samples()[0], target=None)])


@pytest.mark.parametrize("name", ["labelme", "yolo_seg"])
def test_empty_targets_and_names_that_collide_are_refused(tmp_path, name):
    empty = object_trajectory(np.zeros(SIZE, bool), sample_id="1", image_name="a.jpg", text="none")
    with pytest.raises(ValueError, match="an empty target"):
        fmt(name, tmp_path / "x").write([empty])
    # LabelMe's files lie in one folder, YOLO's in the folders of the pictures.
    other = {"labelme": "a.jpg", "yolo_seg": "dir/a.png"}[name]
    with pytest.raises(ValueError, match=rf"dir/a\.jpg and {re.escape(other)} have one name"):
        fmt(name, tmp_path / "x").write([samples()[0], replace(samples()[0], image_name=other)])


def test_pictures_of_unequal_size_are_refused(tmp_path):
    other = object_trajectory(np.ones((5, 5), bool), sample_id="x", image_name="dir/a.jpg", text="all")
    with pytest.raises(ValueError, match="sample 'x': another size than '7' on one picture"):
        fmt("coco", tmp_path / "c.json").write([samples()[0], other])


@pytest.mark.parametrize("name", sorted(names("file_format")))
def test_what_is_not_there_is_named(tmp_path, name):
    with pytest.raises((ValueError, OSError), match="none"):
        list(fmt(name, tmp_path / "none").read())


def test_a_start_that_the_released_file_cannot_say_is_refused(tmp_path):
    with pytest.raises(ValueError, match="starts from mask"):
        fmt("segagent_json", tmp_path / "o.json").write([replace(samples()[0], init=InitKind.MASK)])
    assert not Path(tmp_path / "o.json").exists()

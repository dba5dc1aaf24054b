"""scripts/convert.py on the command line's settings."""

import importlib.util
import json
from pathlib import Path

import pytest

from segagent.configuration import compose_config

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "fixtures" / "trace_record" / "example_record.json"


@pytest.fixture(scope="module")
def convert():
    spec = importlib.util.spec_from_file_location("convert", ROOT / "scripts" / "convert.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *overrides: module.main(compose_config("convert", list(overrides)))


def test_a_released_file_there_and_back(convert, tmp_path, capsys):
    convert("from=segagent_json", f"input={EXAMPLE}", "to=trajectories", f"out={tmp_path / 'a.jsonl'}")
    convert("from=trajectories", f"input={tmp_path / 'a.jsonl'}", "to=segagent_json", f"out={tmp_path / 'b.json'}")
    found = json.loads((tmp_path / "b.json").read_text())["data"]
    expected = []
    for record in json.loads(EXAMPLE.read_text())["data"]:
        captions = record["gt_ann"]["caption"]
        for caption in [captions] if isinstance(captions, str) else captions:
            expected.append({**record, "gt_ann": {**record["gt_ann"], "caption": caption}})
    assert found == expected, "one record per caption, and else what was read"
    assert capsys.readouterr().err == "", "nothing is lost"


def test_what_a_format_cannot_hold_is_told(convert, tmp_path, capsys):
    assert convert("from=segagent_json", f"input={EXAMPLE}", "to=coco", f"out={tmp_path / 'c.json'}") == 0
    told = capsys.readouterr()
    assert "samples: segagent_json" in told.out and "coco cannot hold clicks" in told.err


def test_texts_and_categories_that_are_lost_are_told(convert, tmp_path, capsys):
    record = json.loads(EXAMPLE.read_text())["data"][0]
    mask = record["gt_ann"]["segmentation"]
    image = {"id": 1, "file_name": "a.jpg", "height": record["height"], "width": record["width"]}
    objects = [
        {"id": number, "image_id": 1, "category_id": 1, "segmentation": mask, "caption": [caption]}
        for number, caption in enumerate(("left cup", "cup"))
    ]
    content = {"images": [image], "annotations": objects, "categories": [{"id": 1, "name": "cup"}]}
    (tmp_path / "c.json").write_text(json.dumps(content))
    convert("from=coco", f"input={tmp_path / 'c.json'}", "to=segagent_json", f"out={tmp_path / 's.json'}")
    assert "segagent_json cannot hold categories: 2 samples" in capsys.readouterr().err
    convert("from=coco", f"input={tmp_path / 'c.json'}", "to=yolo_seg", f"out={tmp_path / 'y'}")
    told = capsys.readouterr().err
    assert "yolo_seg cannot hold texts: 1 samples" in told and "categories" not in told


def test_a_conversion_that_fails_leaves_no_half_file(convert, tmp_path):
    convert("from=segagent_json", f"input={EXAMPLE}", "to=trajectories", f"out={tmp_path / 'a.jsonl'}")
    whole = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(whole + "{}\n")
    (tmp_path / "b.jsonl").write_text("kept")
    with pytest.raises(ValueError, match=r"a.jsonl, line \d+: key"):
        convert(
            "from=trajectories", f"input={tmp_path / 'a.jsonl'}", "to=trajectories", f"out={tmp_path / 'b.jsonl'}",
            "overwrite=true",
        )  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "b.jsonl"}
    assert (tmp_path / "b.jsonl").read_text() == "kept"


def test_a_folder_that_holds_files_is_not_written_into(convert, tmp_path):
    """What an earlier conversion left there would be read with the new."""
    (tmp_path / "masks" / "masks").mkdir(parents=True)
    (tmp_path / "masks" / "masks" / "old.png").write_text("")
    with pytest.raises(ValueError, match=r"masks: holds files, which would be read with the new ones"):
        convert(
            "from=segagent_json", f"input={EXAMPLE}", "to=png_folders", f"out={tmp_path / 'masks'}", "overwrite=true"
        )


def test_nothing_is_overwritten_unasked(convert, tmp_path):
    out = tmp_path / "c.json"
    settings = ("from=segagent_json", f"input={EXAMPLE}", "to=coco", f"out={out}")
    convert(*settings)
    with pytest.raises(ValueError, match="is there already; say overwrite=true"):
        convert(*settings)
    convert(*settings, "overwrite=true")
    with pytest.raises(ValueError, match="out is the input"):
        convert("from=coco", f"input={out}", "to=trajectories", f"out={out}", "overwrite=true")
    for wrong, message in (
        (["input=nowhere"], "nowhere: no such file"),
        (["input="], "input: not given"),
        (["from=docx", f"input={out}"], "no file_format 'docx'; there are coco, labelme"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(f"out={tmp_path / 'd'}", *wrong)


def coco(tmp_path, name, *annotations, pictures=1):
    """A file with the categories zebra (11), apple (12) and owl (3, of no object)."""
    images = [{"id": k, "file_name": f"{k}.jpg", "height": 10, "width": 12} for k in range(pictures)]
    square = {"image_id": 0, "segmentation": [[2, 2, 8, 2, 8, 8, 2, 8]]}
    content = {
        "images": images,
        "annotations": [{"id": k, **square, **entry} for k, entry in enumerate(annotations)],
        "categories": [{"id": 11, "name": "zebra"}, {"id": 12, "name": "apple"}, {"id": 3, "name": "owl"}],
    }
    (tmp_path / name).write_text(json.dumps(content))
    return f"input={tmp_path / name}"


def test_files_of_one_data_set_number_its_categories_alike(convert, tmp_path, caplog):
    train = coco(tmp_path, "train.json", {"category_id": 11}, {"category_id": 12}, pictures=3)
    val = coco(tmp_path, "val.json", {"category_id": 11})
    for given, name in ((train, "a"), (val, "b")):
        convert("from=coco", given, "to=yolo_seg", f"out={tmp_path / name}")
        convert("from=coco", given, "to=coco", f"out={tmp_path / name}.json")
    labels = [(tmp_path / name / "labels" / "0.txt").read_text().split("\n") for name in ("a", "b")]
    assert [line[:1] for line in labels[0]] == ["1", "2", ""] and [line[:1] for line in labels[1]] == ["1", ""]
    named = [json.loads((tmp_path / f"{name}.json").read_text())["categories"] for name in ("a", "b")]
    assert named[0] == named[1] == [{"id": k, "name": name} for k, name in enumerate(("owl", "zebra", "apple"), 1)]
    assert "train.json: 2 pictures without annotations are left out" in caplog.text


def test_an_object_with_several_texts_is_one_object(convert, tmp_path):
    given = coco(tmp_path, "c.json", {"category_id": 11, "caption": ["left", "the zebra", "zebra"]})
    convert("from=coco", given, "to=yolo_seg", f"out={tmp_path / 'y'}")
    assert len((tmp_path / "y" / "labels" / "0.txt").read_text().splitlines()) == 1
    convert("from=coco", given, "to=labelme", f"out={tmp_path / 'l'}")
    (shape,) = json.loads((tmp_path / "l" / "0.json").read_text())["shapes"]
    assert shape["description"] == "left\nthe zebra\nzebra"
    convert("from=labelme", f"input={tmp_path / 'l'}", "to=coco", f"out={tmp_path / 'again.json'}")
    (annotation,) = json.loads((tmp_path / "again.json").read_text())["annotations"]
    assert annotation["caption"] == ["left", "the zebra", "zebra"]


def test_a_folder_that_cannot_be_finished_is_as_it_was(convert, tmp_path):
    given = coco(tmp_path, "c.json", {"category_id": 11}, {"category_id": 11, "segmentation": []})
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / ".hidden").touch()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for to in ("labelme", "yolo_seg"):
        for name in ("new", "there", "link"):
            with pytest.raises(ValueError, match="an empty target"):
                convert("from=coco", given, f"to={to}", f"out={tmp_path / name}")
        assert not (tmp_path / "new").exists()
        assert [path.name for path in (tmp_path / "there").iterdir()] == [".hidden"]
    convert("from=coco", given, "to=png_folders", f"out={tmp_path / 'link'}")  # it can say an empty target
    assert (tmp_path / "there" / "masks").is_dir()

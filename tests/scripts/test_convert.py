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

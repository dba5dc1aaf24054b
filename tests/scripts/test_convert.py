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
        (["from=docx", f"input={out}"], "no format 'docx'; there are coco, labelme"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(f"out={tmp_path / 'd'}", *wrong)

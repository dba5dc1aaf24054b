"""scripts/prepare_data.py: every dataset with a publisher is known, and what is wrong with a folder is told."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segagent.configuration import compose_config, load_named, names
from segagent.data.published import ORIGINS, Split

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare_data", ROOT / "scripts" / "prepare_data.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["prepare_data"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def dis5k(tmp_path):
    """DIS-VD with two pictures, the other splits missing."""
    for stem in ("1#A#1#Bag#1", "1#A#1#Cup#2"):
        mask = np.zeros((12, 16), np.uint8)
        mask[2:5, 3:7] = 255
        for folder, array, suffix in (("im", np.zeros((12, 16, 3), np.uint8), "jpg"), ("gt", mask, "png")):
            (tmp_path / "DIS-VD" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "DIS-VD" / folder / f"{stem}.{suffix}")
    return tmp_path


def config(*overrides):
    return compose_config("prepare_data", ["data=dis5k", *overrides])


def test_every_data_config_with_a_publisher_is_recognised(script):
    known = {name: script.origin_of(load_named("data", name))[0] for name in names("data")}
    assert {name for name, found in known.items() if found == name} == set(ORIGINS)
    assert {known[name] for name in set(known) - set(ORIGINS)} == {"?"}, "generated data has no publisher"


def test_splits_are_settings_of_their_dataset():
    for name, origin in ORIGINS.items():
        for split in origin.splits:
            assert set(split.settings) <= set(load_named("data", name)), (name, split)


def test_missing_splits_and_other_counts_are_told(script, dis5k, capsys):
    assert script.main(config(f"data.root={dis5k}")) == 1
    told = capsys.readouterr().out
    assert "DIS-VD: 2 objects, published are 470" in told and "samples 2  objects 2 of 470" in told
    assert "DIS-TR/im: no such folder" in told and "0 of 6 splits sound" in told
    assert "huggingface.co/sam-hq-team" in told


def test_unreadable_files_are_told(script, dis5k, capsys, monkeypatch):
    origin = script.ORIGINS["dis5k"]
    split = Split({"split": "DIS-VD"}, 2, 2)
    monkeypatch.setitem(script.ORIGINS, "dis5k", type(origin)(origin.source, (split,)))
    assert script.main(config(f"data.root={dis5k}")) == 0
    assert "opened 2  problems 0" in capsys.readouterr().out
    (dis5k / "DIS-VD" / "im" / "1#A#1#Cup#2.jpg").write_bytes(b"junk")
    assert script.main(config(f"data.root={dis5k}")) == 1
    assert "Cup#2.jpg: not an image" in capsys.readouterr().out
    assert script.main(config(f"data.root={dis5k}", "every=0")) == 0, "counts only"


def test_objects_and_images_of_refs_are_counted_without_opening(script, tmp_path):
    class Counted(list):
        def object_key(self, index):
            return index // 2

    found = script.Findings("x", samples=4, objects=script.counted(Counted(range(4)), "object_key"))
    assert (found.objects, script.counted(Counted(), "image_key")) == (2, None)
    assert script.differences(found, Split({}, None, 2, 5), True) == ["x: 4 samples, published are 5"]
    assert script.differences(found, Split({}, None, 2, 5), False) == []


def test_only_the_given_split(script, dis5k, capsys):
    assert script.main(config(f"data.root={dis5k}", "splits=given")) == 1
    assert "0 of 1 splits sound" in capsys.readouterr().out


def test_unsound_settings_are_refused(script, dis5k):
    for overrides, message in (
        (["action=fetch"], "choose check or where"),
        (["every=-1"], "every 0 or more"),
        (["splits=some"], "splits is all or given"),
    ):
        with pytest.raises(ValueError, match=message):
            script.main(config(f"data.root={dis5k}", *overrides))
    with pytest.raises(ValueError, match="say data=NAME"):
        script.main(compose_config("prepare_data"))


def test_the_action_stands_first_on_the_command_line(dis5k):
    call = [sys.executable, str(ROOT / "scripts" / "prepare_data.py"), "where", "data=dis5k", f"data.root={dis5k}"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "xuebinqin.github.io" in done.stdout, done.stderr

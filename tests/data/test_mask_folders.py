import json

import numpy as np
import pytest
from PIL import Image

from segagent.data.mask_folders import MaskFolders, list_pictures


@pytest.fixture
def root(tmp_path):
    for name in ("images", "masks", "images/deep", "masks/deep"):
        (tmp_path / name).mkdir()
    labels = np.zeros((8, 10), np.uint8)
    labels[2:5, 3:7] = 255
    labels[5, 3:7] = 128
    for stem in ("red_cup", "deep/two"):
        Image.fromarray(np.full((8, 10, 3), 70, np.uint8)).save(tmp_path / "images" / f"{stem}.jpg")
        Image.fromarray(labels).save(tmp_path / "masks" / f"{stem}.png")
    return tmp_path


def test_pictures_and_masks_meet_by_name(root):
    data = MaskFolders(root=str(root), void_value=128)
    assert [data.sample_id(k) for k in range(len(data))] == ["deep/two", "red_cup"]
    sample = data[1]
    assert sample.target.sum() == 12 and sample.void.sum() == 4 and sample.text == "red cup"
    assert (data[0].image_name, sample.image_name) == ("deep/two.jpg", "red_cup.jpg")
    assert len(MaskFolders(root=str(root), void_value=128, limit=1)) == 1


def test_files_of_the_system_are_no_pictures(root):
    before = len(MaskFolders(root=str(root)))
    (root / "images" / "._a.png").write_bytes(b"of macOS")
    (root / "images" / "folder.png").mkdir()
    assert len(MaskFolders(root=str(root))) == before


def test_several_values_are_not_guessed_at(root):
    with pytest.raises(ValueError, match=r"red_cup.png: object values \[128, 255\].*data.void_value=V"):
        MaskFolders(root=str(root))[1]
    assert MaskFolders(root=str(root), threshold=128)[1].target.sum() == 16


def test_texts(root):
    (root / "texts.json").write_text(json.dumps({"red_cup": "the mug", "two.jpg": "two"}))
    with pytest.raises(ValueError, match=r"nothing.json: no such file"):
        MaskFolders(root=str(root), texts=str(root / "nothing.json"))
    data = MaskFolders(root=str(root), texts=str(root / "texts.json"), void_value=128)
    assert (data[0].text, data[1].text) == ("two", "the mug")
    (root / "texts.json").write_text(json.dumps({"red_cup": "the mug"}))
    with pytest.raises(ValueError, match="no description for 'deep/two'"):
        MaskFolders(root=str(root), texts=str(root / "texts.json"))
    assert MaskFolders(root=str(root), text="thing", void_value=128)[0].text == "thing"


def test_what_is_missing_is_named(root):
    with pytest.raises(ValueError, match=r"give data.root=DIR"):
        MaskFolders(images=str(root))
    with pytest.raises(ValueError, match="none/images: no such folder"):
        MaskFolders(root="none")
    (root / "masks" / "red_cup.png").unlink()
    with pytest.raises(ValueError, match=r"no mask for .*red_cup.jpg \(1 pictures have none\)"):
        MaskFolders(root=str(root))


def test_sizes_must_agree_and_the_object_must_be_there(root):
    Image.fromarray(np.full((8, 11), 255, np.uint8)).save(root / "masks" / "red_cup.png")
    with pytest.raises(ValueError, match=r"red_cup.png: mask is \[8, 11\] but .*red_cup.jpg is \[8, 10\]"):
        MaskFolders(root=str(root))[1]
    Image.fromarray(np.zeros((8, 10), np.uint8)).save(root / "masks" / "red_cup.png")
    with pytest.raises(ValueError, match=r"red_cup.png: the mask marks no object"):
        MaskFolders(root=str(root))[1]
    assert not MaskFolders(root=str(root), allow_empty=True)[1].target.any()


def test_one_name_twice_is_refused(root):
    Image.fromarray(np.zeros((8, 10, 3), np.uint8)).save(root / "images" / "red_cup.png")
    with pytest.raises(ValueError, match=r"red_cup.jpg and red_cup.png have one name"):
        MaskFolders(root=str(root))


def test_only_files_that_match(root):
    assert len(MaskFolders(root=str(root), include="red")) == 1
    with pytest.raises(ValueError, match=r"no picture's name matches data.include='zebra'"):
        MaskFolders(root=str(root), include="zebra")


def test_folders_of_tools_hold_no_pictures(root):
    (root / "images" / ".thumbnails").mkdir()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(root / "images" / ".thumbnails" / "x.jpg")
    assert sorted(list_pictures(root / "images")) == ["deep/two", "red_cup"]

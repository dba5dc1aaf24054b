import json

import numpy as np
import pytest
from PIL import Image

from segagent.data.hqseg import Dis5k, ThinObject5k, dis_category, leading_words


def picture_and_mask(images, masks, stem, values=(0, 200)):
    mask = np.full((12, 16), values[0], np.uint8)
    mask[3:7, 2:8] = values[1]
    mask[7, 2:8] = 100  # a soft edge below the middle
    for folder, array, suffix in ((images, np.full((12, 16, 3), 90, np.uint8), "jpg"), (masks, mask, "png")):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / f"{stem}.{suffix}")


@pytest.mark.parametrize("inside", ["", "DIS5K"])
def test_dis5k_tells_categories_by_its_file_names(tmp_path, inside):
    base = tmp_path / inside / "DIS-TE1"
    for stem in ("1#Accessories#1#Bag#2339506821_83cf9f1d22_o", "2#Aircraft#9#WindTurbine#1_o"):
        picture_and_mask(base / "im", base / "gt", stem)
    data = Dis5k(root=str(tmp_path), split="DIS-TE1")
    assert [data[k].text for k in range(2)] == ["bag", "wind turbine"] and data[0].category == "bag"
    assert data[0].target.sum() == 24, "soft edges are cut in the middle"
    assert Dis5k(root=str(tmp_path), split="DIS-TE1", text="the {category}", limit=1)[0].text == "the bag"


@pytest.mark.parametrize("inside", ["", "ThinObject5K", "thin_object_detection/ThinObject5K"])
def test_thinobject5k(tmp_path, inside):
    base = tmp_path / inside
    picture_and_mask(base / "images_test", base / "masks_test", "fishing_rod_0012")
    data = ThinObject5k(root=str(tmp_path))
    assert (data[0].text, data.sample_id(0), data[0].target.sum()) == ("fishing rod", "fishing_rod_0012", 24)


def test_names_without_a_category_need_texts(tmp_path):
    base = tmp_path / "DIS-VD"
    picture_and_mask(base / "im", base / "gt", "0001")
    with pytest.raises(ValueError, match=r"DIS-VD/im/0001: the file's name tells no category; say data\.texts"):
        Dis5k(root=str(tmp_path))
    assert Dis5k(root=str(tmp_path), text="{stem}")[0].text == "0001"
    (tmp_path / "texts.json").write_text(json.dumps({"0001": "a bag"}))
    assert Dis5k(root=str(tmp_path), texts=str(tmp_path / "texts.json"))[0].text == "a bag"


def test_words_of_names():
    assert dis_category("1#A#2#CableLift#9#x") == "cable lift" and dis_category("1#A#2") is None
    assert leading_words("bee-2_1") == "bee" and leading_words("x1") is None and leading_words("0012") is None


def test_what_is_missing_is_named_by_path(tmp_path):
    with pytest.raises(ValueError, match="DIS-VD/im: no such folder"):
        Dis5k(root=str(tmp_path))
    picture_and_mask(tmp_path / "DIS-VD" / "im", tmp_path / "other", "1#A#1#Bag#2")
    with pytest.raises(ValueError, match="DIS-VD/gt: no such folder"):
        Dis5k(root=str(tmp_path))
    picture_and_mask(tmp_path / "other2", tmp_path / "DIS-VD" / "gt", "1#A#1#Bag#3")
    with pytest.raises(ValueError, match=r"DIS-VD/gt: no mask for .*1#A#1#Bag#2\.jpg"):
        Dis5k(root=str(tmp_path))
    picture_and_mask(tmp_path / "images_test", tmp_path / "masks_test", "bee_1", values=(0, 0))
    with pytest.raises(ValueError, match=r"bee_1\.png: the mask marks no object"):
        ThinObject5k(root=str(tmp_path))[0]

"""Small trees in the layouts that the public datasets are published in."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from segagent.masks import encode_rle

HEIGHT, WIDTH = 12, 16
LEFT, RIGHT = [1, 2, 6, 2, 6, 9, 1, 9], [9, 3, 14, 3, 14, 8, 9, 8]


def save_picture(path, size=(HEIGHT, WIDTH), value=90, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path, **options)


def block_mask():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:9, 1:6] = True
    return mask


def ref(number, annotation, split, *sentences, image=1):
    return {
        "ref_id": number,
        "ann_id": annotation,
        "image_id": image,
        "category_id": 7,
        "split": split,
        # As in the released files: not the picture's name but the object's.
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg",
        "sent_ids": list(range(len(sentences))),
        "sentences": [
            {"sent_id": k, "sent": sentence, "raw": sentence.title(), "tokens": sentence.split()}
            for k, sentence in enumerate(sentences)
        ],
    }


def instances(names):
    common = {"category_id": 7, "iscrowd": 0}
    return {
        "images": [
            {"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH} for number, name in names.items()
        ],
        "annotations": [
            {**common, "id": 11, "image_id": 1, "segmentation": [LEFT], "bbox": [1, 2, 5, 7]},
            {**common, "id": 12, "image_id": 1, "segmentation": [RIGHT], "bbox": [9, 3, 5, 5]},
            {**common, "id": 13, "image_id": 2, "segmentation": [LEFT], "bbox": [1, 2, 5, 7]},
        ],
        "categories": [{"id": 7, "name": "cup"}],
    }


COCO_NAMES = {number: f"COCO_train2014_{number:012d}.jpg" for number in (1, 2)}


@pytest.fixture
def refer_tree(tmp_path):
    """write(dataset, split_by, refs, inside="", change=...) makes a whole tree and returns its root."""

    def write(dataset="refcoco", split_by="unc", refs=None, inside="", change=lambda content: None):
        base = tmp_path / "tree" / inside
        folder = base / dataset
        folder.mkdir(parents=True, exist_ok=True)
        if refs is None:
            refs = [
                ref(1, 11, "val", "left cup", "the cup on the left"),
                ref(2, 12, "val", "right cup"),
                ref(3, 13, "testA", "cup", image=2),
                ref(4, 13, "train", "only cup", image=2),
            ]
        content = instances(COCO_NAMES)
        change(content)
        (folder / "instances.json").write_text(json.dumps(content))
        if dataset == "grefcoco":
            (folder / f"grefs({split_by}).json").write_text(json.dumps(refs))
        else:
            (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, 2))
        for name in COCO_NAMES.values():
            save_picture(base / "images" / "mscoco" / "images" / "train2014" / name)
        return tmp_path / "tree"

    write.ref = ref
    return write


@pytest.fixture
def clef_tree(tmp_path):
    """RefCLEF: pictures by thousands, a list of RLEs as segmentation."""
    folder = tmp_path / "clef" / "refclef"
    folder.mkdir(parents=True)
    content = instances({1: "19579.jpg", 2: "25.jpg"})
    for annotation in content["annotations"]:
        annotation["segmentation"] = [encode_rle(block_mask())]
    (folder / "instances.json").write_text(json.dumps(content))
    refs = [ref(1, 11, "testAB", "sky"), ref(2, 13, "testBC", "sea", image=2), ref(3, 13, "train", "sand", image=2)]
    (folder / "refs(berkeley).p").write_bytes(pickle.dumps(refs, 0))
    pictures = tmp_path / "clef" / "images" / "saiapr_tc-12"
    save_picture(pictures / "19" / "images" / "19579.jpg")
    save_picture(pictures / "25.jpg")
    return tmp_path / "clef"

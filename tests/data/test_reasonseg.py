import json

import numpy as np
import pytest
from PIL import Image

from segagent.data.reasonseg import ReasonSeg

SQUARE = [[2, 2], [9, 2], [9, 9], [2, 9]]
INNER = [[4, 4], [6, 4], [6, 6], [4, 6]]


@pytest.fixture
def tree(tmp_path):
    """write(stem, encoding=..., **changes) adds one picture with its annotation."""
    (tmp_path / "ReasonSeg" / "val").mkdir(parents=True)

    def write(stem="a", encoding="utf-8", **changes):
        folder = tmp_path / "ReasonSeg" / "val"
        Image.fromarray(np.full((12, 16, 3), 90, np.uint8)).save(folder / f"{stem}.jpg")
        content = {"text": ["what one drinks from", "the vessel"], "is_sentence": True, "shapes": []}
        content["shapes"] = [{"label": "target", "points": SQUARE}]
        content = {key: value for key, value in (content | changes).items() if value is not None}
        (folder / f"{stem}.json").write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
        return tmp_path

    return write


def test_shapes_become_target_and_void(tree):
    shapes = [
        {"label": "ignore", "points": INNER},
        {"label": "target", "points": SQUARE},
        {"label": "Flag", "points": [[0, 0], [15, 0], [15, 11]]},
    ]
    sample = ReasonSeg(root=str(tree(shapes=shapes)))[0]
    expected = np.zeros((12, 16), bool)
    expected[2:10, 2:10] = True
    void = np.zeros((12, 16), bool)
    void[4:7, 4:7] = True
    assert (sample.void == void).all() and (sample.target == (expected & ~void)).all(), "outlines belong to shapes"
    assert (sample.text, sample.category, sample.image_name) == ("what one drinks from", "sentence", "val/a.jpg")


def test_a_shape_on_an_ignored_one_is_drawn_over_it(tree):
    shapes = [{"label": "target", "points": INNER}, {"label": "ignore", "points": SQUARE}]
    sample = ReasonSeg(root=str(tree(shapes=shapes)))[0]
    assert sample.target.sum() == 9 and sample.void.sum() == 64 - 9


def test_first_instruction_or_all(tree):
    root = str(tree("b", is_sentence=False) and tree("a"))
    assert [ReasonSeg(root=root).sample_id(k) for k in range(2)] == ["a", "b"]
    data = ReasonSeg(root=root, texts="all")
    assert [data.sample_id(k) for k in range(len(data))] == ["a", "a#1", "b", "b#1"]
    assert data[1].text == "the vessel" and data[2].category == "phrase" and len(ReasonSeg(root=root, limit=1)) == 1
    assert len(ReasonSeg(root=f"{root}/ReasonSeg")) == 2


def test_texts_in_code_page_1252_are_read(tree):
    assert ReasonSeg(root=str(tree(encoding="cp1252", text="the café’s cup")))[0].text == "the café’s cup"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"shapes": None}, r"a\.json: key 'shapes' is missing"),
        ({"text": []}, "'text' holds no instruction"),
    ],
)
def test_unsound_annotations_are_refused_when_opened(tree, changes, message):
    with pytest.raises(ValueError, match=message):
        ReasonSeg(root=str(tree(**changes)))


@pytest.mark.parametrize(
    "shapes, message",
    [
        ([{"label": "target", "points": [1, 2, 3, 4, 5]}], r"a\.json: shape 0: points are \[5\] numbers"),
        ([{"label": "target", "points": [[1, 2], [3]]}], "shape 0: broken"),
        ([{"points": SQUARE}], "shape 0: broken .KeyError"),
        ([{"label": "target", "points": [[1, float("nan")]]}], "shape 0: points"),
        ([{"label": "target", "points": [[1, 2], [3, 1e12]]}], r"shape 0: a point at \[3.0, 1000000000000.0\]"),
        ([{"label": "target", "points": []}], r"shape 0: points are \[0\] numbers"),
        ([{"label": "ignore", "points": SQUARE}], "no shape marks a target"),
    ],
)
def test_unsound_shapes_are_refused_when_loaded(tree, shapes, message):
    data = ReasonSeg(root=str(tree(shapes=shapes)))
    with pytest.raises(ValueError, match=message):
        data[0]


def test_what_is_missing_is_named_by_path(tree):
    root = tree()
    with pytest.raises(ValueError, match=r"test: no such folder; looked for .*ReasonSeg/test"):
        ReasonSeg(root=str(root), split="test")
    with pytest.raises(ValueError, match="choose first or all"):
        ReasonSeg(root=str(root), texts="some")
    (root / "ReasonSeg" / "val" / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"val/a\.jpg: no such image file"):
        ReasonSeg(root=str(root))[0]
    tree("b")
    (root / "ReasonSeg" / "val" / "b.json").unlink()
    with pytest.raises(ValueError, match=r"val/b\.jpg: no annotation \(\.json\) beside it \(1 pictures have none\)"):
        ReasonSeg(root=str(root))
    (root / "ReasonSeg" / "val" / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: not JSON"):
        ReasonSeg(root=str(root))

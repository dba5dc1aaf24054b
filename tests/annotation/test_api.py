"""`from segagent import annotate`, and that `import segagent` brings no network."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from segagent import Annotator, annotate, returned_mask
from segagent.mllm import testing
from segagent.types import Box, EndReason, InitKind

FAST = ("segmenter=graphcut", "segmenter.max_pixels=2000", "rollout.max_clicks=2", "device=cpu")
SPOKEN = 'proposer.prefix="Current IOU: 50, Positive point: (500, 500)"'  # a forced reply stands in for training


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano") / "m"
    testing.write_nano(folder)
    return folder


@pytest.fixture
def picture():
    image = np.full((30, 40, 3), 40, np.uint8)
    image[8:24, 10:32] = 220
    return image


def test_a_picture_and_a_text_become_a_trajectory(model, picture, tmp_path):
    settings = (*FAST, SPOKEN, "proposer.max_new_tokens=1", "search.k=1")
    trajectory = annotate(picture, "the red star", model=model, settings=settings)
    mask = returned_mask(trajectory)
    assert mask.shape == (30, 40) and mask.dtype == bool and trajectory.text == "the red star"
    assert trajectory.steps and trajectory.steps[0].action.click.x == 20
    Image.fromarray(picture).save(tmp_path / "p.png")
    again = annotate(tmp_path / "p.png", "the red star", model=model, settings=settings)
    assert (returned_mask(again) == mask).all()
    given = np.zeros((30, 40), bool)
    given[9:20, 12:30] = True
    refined = annotate(picture, "the red star", model=model, mask=given, settings=settings)
    assert refined.init is InitKind.MASK and returned_mask(refined).any()
    boxed = annotate(picture, "the red star", model=model, box=Box(8, 6, 34, 26), settings=settings)
    assert boxed.init is InitKind.BOX and boxed.init_box == Box(8, 6, 34, 26)


def test_many_pictures_are_done_in_batches_and_in_order(picture):
    annotator = Annotator(*FAST, "policy=center", "batch_size=2")
    found = annotator.annotate([picture, picture[::-1].copy(), picture], ["a", "b", "c"])
    assert [one.text for one in found] == ["a", "b", "c"]
    assert all(one.end_reason is EndReason.FINISHED and returned_mask(one)[15, 20] for one in found)
    for wrong, message in (
        ({"texts": ["a"]}, "2 images and 1 texts"),
        ({"masks": [picture[..., 0] > 0] * 2}, "Center judges no mask"),
        ({"masks": [], "boxes": []}, "exclude each other"),
        ({"texts": ["a", " "]}, "text 1 is ' ': say what is to be segmented"),
        ({"boxes": [(1, 2, 3, 4)] * 2}, r"box 0 is \(1, 2, 3, 4\): give segagent.types.Box"),
    ):
        with pytest.raises(ValueError, match=message):
            annotator.annotate([picture, picture], **{"texts": ["a", "b"], **wrong})


def test_without_a_model_it_says_what_to_give(picture):
    with pytest.raises(ValueError, match="say mllm=NAME or mllm=FOLDER"):
        annotate(picture, "cup", settings=("proposer.mllm=null", *FAST))


def test_importing_the_package_is_light():
    code = "import sys, segagent; assert not {'torch', 'numpy', 'hydra', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_mask_that_is_a_file_and_settings_in_one_text_are_refused(picture):
    with pytest.raises(ValueError, match=r"mask 0 is 'mask.png': give \[H, W\] bool arrays"):
        Annotator(*FAST, "policy@proposer=center", "reward=true_iou").annotate([picture], ["a"], masks=["mask.png"])
    with pytest.raises(ValueError, match=r"settings='search.k=1': give several texts, such as"):
        annotate(picture, "a", settings="search.k=1")

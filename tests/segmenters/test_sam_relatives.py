"""SAM-HQ, SAM 2 and SAM 3's tracker against transformers' own forward pass, and what they do otherwise than SAM."""

import numpy as np
import pytest
import torch
from PIL import Image

from segagent.segmenters import Sam2, SamHq
from segagent.segmenters.sam_frames import Stretched
from segagent.types import Box, Click

RELATIVES = ["sam", "sam_hq", "sam2", "sam3_tracker"]
STATES = [
    ([Click(12, 30)], None),
    ([Click(12, 30), Click(50, 5, False), Click(40, 20)], None),
    ([], Box(4, 6, 40, 33)),
    ([Click(20, 20), Click(5, 5, False)], Box(4, 6, 40, 33)),
]


def picture(seed=0, size=(40, 60)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def reference(segmenter, image, clicks, box, low_res, multimask):
    """Logits and scores of one state by the network's own forward pass, from pixels and prompts in its frame."""
    x, y = segmenter.frame.scale(image.shape[:2])
    prompts = {}
    if clicks:
        prompts["input_points"] = torch.tensor([[[[click.x * x, click.y * y] for click in clicks]]])
        prompts["input_labels"] = torch.tensor([[[int(click.is_positive) for click in clicks]]])
    if box is not None:
        prompts["input_boxes"] = torch.tensor([[[box.x0 * x, box.y0 * y, box.x1 * x, box.y1 * y]]])
    if low_res is not None:
        prompts["input_masks"] = torch.from_numpy(low_res)[None, None]
    with torch.no_grad():
        pixels = segmenter.frame.pixels(image)[None]
        outputs = segmenter.network(pixel_values=pixels, multimask_output=multimask, **prompts)
    return segmenter.fed_back(outputs.pred_masks[0, 0]).numpy(), outputs.iou_scores[0, 0].numpy()


@pytest.mark.parametrize("rule", ["always", "never"])
@pytest.mark.parametrize("name", RELATIVES)
def test_a_mixed_batch_equals_transformers_one_by_one(tiny_sam, name, rule):
    """Several pictures, numbers of clicks, boxes or none, with and without a mask before: one call of the decoder."""
    segmenter = tiny_sam(name, multimask=rule)
    images = [picture(0), picture(1, (64, 64)), picture(2, (90, 30)), picture(3)]
    embeddings = segmenter.embed(images)
    clicks, boxes = zip(*STATES, strict=True)
    clicks = [[Click(click.x // 2, click.y, click.is_positive) for click in made] for made in clicks]
    boxes = [None, None, Box(4, 6, 28, 33), Box(4, 6, 40, 33)]
    _, before = segmenter.predict(embeddings, [[Click(9, 9)]] * 4, [None] * 4)
    memory = [None, before[1], None, before[3]]
    calls = []
    hook = segmenter.network.mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    masks, memories = segmenter.predict(embeddings, clicks, memory, boxes)
    hook.remove()
    assert len(calls) == 1
    for k in range(4):
        low_res = None if memory[k] is None else memory[k].low_res_logits[memory[k].chosen].numpy()
        logits, scores = reference(segmenter, images[k], clicks[k], boxes[k], low_res, rule == "always")
        assert np.abs(memories[k].low_res_logits.numpy() - logits).max() < 1e-4
        assert np.abs(memories[k].scores - scores).max() < 1e-5
        assert masks[k].shape == images[k].shape[:2]


@pytest.mark.parametrize("name", RELATIVES)
def test_a_folder_of_transformers_is_read_back(tiny_sam, name, tmp_path):
    segmenter = tiny_sam(name)
    segmenter.network.save_pretrained(tmp_path / "folder")
    again = type(segmenter).from_checkpoint(tmp_path / "folder", device="cpu")
    state = again.network.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in segmenter.network.state_dict().items())


def test_a_folder_of_another_kind_is_refused_by_name(tiny_sam, tmp_path):
    tiny_sam("sam_hq").network.save_pretrained(tmp_path / "hq")
    with pytest.raises(ValueError, match="hq: holds a 'sam_hq' model; Sam2Model takes sam2, sam2_video"):
        Sam2.from_checkpoint(tmp_path / "hq")
    (tmp_path / "hq" / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json: not a transformers config"):
        SamHq.from_checkpoint(tmp_path / "hq")
    with pytest.raises(ValueError, match="nowhere: no such checkpoint"):
        SamHq.from_checkpoint(tmp_path / "nowhere")


def test_a_folder_that_lacks_a_tensor_is_refused(tiny_sam, tmp_path):
    network = tiny_sam("sam2").network
    state = {key: value for key, value in network.state_dict().items() if "iou_token" not in key}
    network.save_pretrained(tmp_path / "cut", state_dict=state)
    with pytest.raises(ValueError, match=r"cut: lacks mask_decoder.iou_token.weight"):
        Sam2.from_checkpoint(tmp_path / "cut")


def test_the_stretched_frame_is_that_of_sam_2():
    frame, image = Stretched(64), picture(4, (100, 150))
    pixels = frame.pixels(image)
    mean, std = (torch.tensor(values)[:, None, None] for values in (frame.mean, frame.std))
    levels = (pixels * std + mean) * 255
    pillow = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR))
    assert np.abs(levels.permute(1, 2, 0).numpy() - pillow).max() < 1.5, "antialiased, as Pillow but without rounding"
    assert frame.scale((100, 150)) == (64 / 150, 0.64)


def test_sam_2_feeds_back_limited_logits(tiny_sam):
    segmenter = tiny_sam("sam2")
    assert segmenter.fed_back(torch.tensor([-50.0, 3.0, 99.0])).tolist() == [-32.0, 3.0, 32.0]


def test_the_fine_token_alone_gives_other_masks(tiny_sam):
    both, alone = (tiny_sam("sam_hq", hq_only=flag) for flag in (False, True))
    made = [
        segmenter.predict(segmenter.embed([picture()]), [[Click(9, 9)]], [None])[1][0] for segmenter in (both, alone)
    ]
    assert (made[0].low_res_logits[0] - made[1].low_res_logits[0]).abs().max() > 1e-3
    assert [len(memory.scores) for memory in made] == [len(memory.low_res_logits) for memory in made]


@pytest.mark.parametrize("left", [0, 5, 0.5])
def test_a_folder_whose_weights_are_cut_off_is_refused_by_name(tiny_sam, tmp_path, left):
    """What an interrupted download leaves: nothing, a few bytes, half."""
    folder = tmp_path / "sam"
    tiny_sam("sam2").network.save_pretrained(folder)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(left * len(content)) if left < 1 else left])
    with pytest.raises(ValueError, match=r"sam: cannot be loaded"):
        Sam2.from_checkpoint(folder, device="cpu")

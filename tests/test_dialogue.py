import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segagent.configuration import names
from segagent.dialogue import Dialogue, load_dialogue
from segagent.types import Box, Click

FIXTURES = Path(__file__).parent / "fixtures" / "parsing"
RESPONSES = json.loads((FIXTURES / "responses.json").read_text())
COORDS = json.loads((FIXTURES / "coords.json").read_text())
DIALOGUES = [
    "nano", "nano_blue", "nano_decimals", "nano_red", "nano_row_first", "paper", "released_llava", "released_qwen"
]  # fmt: skip


def test_the_named_dialogues_are_there():
    assert names("dialogue") == ["absolute", *DIALOGUES]


def test_unknown_dialogue_names_the_known_ones():
    with pytest.raises(ValueError, match="no dialogue 'qwen'; there are absolute, nano, "):
        load_dialogue("qwen")


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: repr(case["text"])[:40])
def test_released_qwen_reads_points_and_boxes_as_the_released_parser(case):
    dialogue = load_dialogue("released_qwen")
    sign, point = case["full"]
    expected = None if sign is None else (sign, *point)
    assert dialogue.read_point(case["text"]) == expected
    box = dialogue.read_box(case["text"])
    released = case["full_box"][2]
    # The released parser also accepts boxes without tags and needs no blank inside; ours reads declared boxes only.
    if "<box>" in case["text"] and "</box>" in case["text"] and ", " not in case["text"].split("</box>")[0]:
        assert (box or (0, 0, 0, 0)) == tuple(released)


@pytest.mark.parametrize("case", COORDS, ids=lambda case: f"{case['width']}x{case['height']}-{case['numbers']}")
def test_released_qwen_puts_numbers_where_the_released_evaluation_does(case):
    height, width = case["height"], case["width"]
    a, b = case["numbers"]
    reply = load_dialogue("released_qwen").parse(f"Positive point: ({a}, {b})", width=width, height=height)
    y, x = case["click_yx"]
    assert reply.click == Click(min(x, width - 1), min(y, height - 1), True)
    x0, y0, x1, y1 = case["box_numbers_xyxy"]
    expected = case["box_xyxy_px"]
    reply = load_dialogue("released_qwen").parse(f"<box>({x0},{y0}),({x1},{y1})</box>", width=width, height=height)
    clipped = [min(side, size) for side, size in zip(expected, (width, height, width, height), strict=True)]
    if clipped[0] < clipped[2] and clipped[1] < clipped[3]:
        assert reply.box == Box(*clipped)
    else:
        assert reply.box is None and "no pixel" in reply.problem


def test_axis_order_differs_between_the_released_models():
    click = Click(30, 60, True)
    assert load_dialogue("released_qwen").format_point(click, width=100, height=100) == "Positive point: (600, 300)"
    assert (
        load_dialogue("released_llava").format_point(click, width=100, height=100) == "Positive point: (0.300, 0.600)"
    )
    assert load_dialogue("paper").format_point(click, width=100, height=100) == "Positive point: (300, 600)"


def test_the_announced_iou_is_read_in_zero_to_one():
    llava = load_dialogue("released_llava")
    reply = llava.parse("Current IOU: 85.2, Positive point: (0.5, 0.3)", width=100, height=200)
    assert reply.predicted_iou == pytest.approx(0.852)
    assert reply.click == Click(50, 60, True)
    assert load_dialogue("paper").parse("Current mIoU: 0, Positive Point", width=9, height=9).predicted_iou == 0
    assert llava.parse("Current IOU: 185, ...", width=9, height=9).predicted_iou is None
    assert llava.parse("Current IOU: nan, ...", width=9, height=9).predicted_iou is None


@pytest.mark.parametrize("name", ["paper", "released_llava"])
def test_replies_in_the_words_of_the_printed_prompt(name):
    """Fig. 6 writes "Positive Point (x, y)", and recorded replies have no comma after the number."""
    dialogue = load_dialogue(name)
    announced = dialogue.format_iou(0.25).rstrip(",")
    click = dialogue.format_point(Click(30, 50, True), width=100, height=100).replace(
        "Positive point:", "Positive Point"
    )
    reply = dialogue.parse(f"{announced} {click}", width=100, height=100)
    assert (reply.click, reply.predicted_iou) == (Click(30, 50, True), 0.25)
    other = dialogue.parse(click.replace("Positive", "NEGATIVE"), width=100, height=100)
    assert other.click == Click(30, 50, False)


def test_iou_box_and_point_share_one_reply():
    dialogue = load_dialogue("released_qwen")
    text = dialogue.format(
        width=640, height=480, click=Click(3, 4, False), box=Box(10, 20, 300, 400), predicted_iou=0.4567
    )
    assert text == "Current IOU: 45.7, <box>(16,42),(469,833)</box> Negative point: (8, 5)"
    reply = dialogue.parse(text, width=640, height=480)
    assert (reply.click, reply.box, reply.predicted_iou) == (Click(3, 4, False), Box(10, 20, 300, 400), 0.457)


def test_finish_and_unreadable_are_two_things():
    dialogue = load_dialogue("nano")
    assert dialogue.parse("Finish", width=9, height=9).finished
    for text in ("", "No object found", "Positive point", "Finished?", "Positive point: (a, b)"):
        reply = dialogue.parse(text, width=9, height=9)
        assert not reply.finished and reply.click is None and "no point" in reply.problem, text


def test_a_point_outside_the_picture_is_no_click():
    for text in ("Positive point: (-5, 1200)", "Positive point: (1001, 3)"):
        reply = load_dialogue("released_qwen").parse(text, width=64, height=64)
        assert reply.click is None and "outside" in reply.problem


def test_strict_dialogues_take_the_first_well_formed_point():
    dialogue = load_dialogue("paper")
    assert dialogue.parse("Negative point: (3, 4) Positive point: (1, 2)", width=1000, height=1000).click == Click(
        3, 4, False
    )
    assert dialogue.parse("Positive point: (1, 2, 3)", width=1000, height=1000).click is None


@given(st.text(max_size=200), st.sampled_from(DIALOGUES), st.integers(1, 5000), st.integers(1, 5000))
def test_parsing_never_fails_and_never_leaves_the_picture(text, name, width, height):
    noise = f"Positive point: ({text}) Current IOU: {text}, <box>({text},1),(9,{text})</box>"
    for candidate in (text, noise):
        reply = load_dialogue(name).parse(candidate, width=width, height=height)
        if reply.click:
            assert 0 <= reply.click.x < width and 0 <= reply.click.y < height
        if reply.box:
            assert 0 <= reply.box.x0 < reply.box.x1 <= width and 0 <= reply.box.y0 < reply.box.y1 <= height


@given(st.data(), st.sampled_from(DIALOGUES), st.integers(1, 4000), st.integers(1, 4000), st.booleans())
def test_format_then_parse_returns_the_click_to_grid_precision(data, name, width, height, is_positive):
    click = Click(data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1)), is_positive)
    dialogue = load_dialogue(name)
    text = dialogue.format(width=width, height=height, click=click, predicted_iou=data.draw(st.floats(0, 1)))
    read = dialogue.parse(text, width=width, height=height).click
    assert read.is_positive == is_positive
    # A grid of 1000 steps is exact up to 1000 pixels; beyond, a step is size/1000 pixels (its last one is not written).
    assert abs(read.x - click.x) <= max(0, width // 1000), text
    assert abs(read.y - click.y) <= max(0, height // 1000), text


@given(st.data(), st.integers(1, 999), st.integers(1, 999))
def test_boxes_come_back_exactly_up_to_the_size_of_the_grid(data, width, height):
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    size = {"width": width, "height": height}
    for name in ("nano", "paper"):
        dialogue = load_dialogue(name)
        assert dialogue.box_scale == 999
        assert dialogue.parse(dialogue.format_box(box, **size), **size).box == box


def test_a_side_on_a_pixel_edge_does_not_slip_back_but_in_the_released_arithmetic():
    absolute, released = load_dialogue("absolute"), load_dialogue("released_qwen")
    for size in (107, 111, 333, 999):
        pixels = {"width": size, "height": size}
        for edge in range(1, size + 1):
            box = Box(0, 0, edge, edge)
            seen = {"seen": (size, size)}
            assert absolute.parse(absolute.format(box=box, **pixels, **seen), **pixels, **seen).box == box
            text = released.format_box(box, **pixels)
            side = int(text.rsplit(",", 1)[1].split(")")[0])
            assert released.parse(text, **pixels).box.x1 == int(side / 999 * size), "int(v/999*size), as released"


SIZES = st.integers(1, 2000)


@given(st.data(), SIZES, SIZES, st.integers(10, 1500), st.integers(10, 1500), st.sampled_from("xy"))
def test_absolute_coordinates_count_pixels_of_the_picture_that_the_model_saw(data, width, height, wide, high, axis):
    words = {"scale": "absolute", "box_scale": "absolute", "first_axis": axis}
    dialogue = Dialogue(system="", prompt="{description}", **words)
    click = Click(data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1)))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    sizes = {"width": width, "height": height, "seen": (wide, high)}
    read = dialogue.parse(dialogue.format(click=click, box=box, **sizes), **sizes)
    assert abs(read.click.x - click.x) <= (0 if wide >= width else width / wide)
    assert abs(read.click.y - click.y) <= (0 if high >= height else height / high)
    if wide >= width and high >= height:
        assert read.box == box
    written = dialogue.read_point(dialogue.format_point(click, **sizes), seen=(wide, high))
    assert all(0 <= fraction < 1 for fraction in written[1:])


def test_absolute_coordinates_need_the_size_that_the_model_saw():
    dialogue = load_dialogue("absolute")
    assert dialogue.absolute and not load_dialogue("paper").absolute
    click = Click(50, 20)
    text = dialogue.format(click=click, width=100, height=80, seen=(280, 56))
    assert text == "Positive point: (140, 14)"
    assert dialogue.parse(text, width=100, height=80, seen=(280, 56)).click == click
    for call in (
        lambda: dialogue.format(click=click, width=100, height=80),
        lambda: dialogue.parse(text, width=100, height=80),
        lambda: dialogue.format(box=Box(0, 0, 5, 5), width=100, height=80),
    ):
        with pytest.raises(ValueError, match="give seen="):
            call()


def test_the_size_that_the_model_saw_changes_nothing_in_relative_dialogues():
    dialogue = load_dialogue("paper")
    sizes = {"width": 100, "height": 80}
    text = dialogue.format(click=Click(50, 20), **sizes)
    assert dialogue.format(click=Click(50, 20), **sizes, seen=(7, 7)) == text
    assert dialogue.parse(text, **sizes, seen=(7, 7)) == dialogue.parse(text, **sizes)


def test_what_the_model_sees_is_the_overlay_and_the_description():
    image = np.full((4, 6, 3), 100, np.uint8)
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    observation = load_dialogue("paper").observe(image, mask, "the {color} cup")
    assert observation.image[1, 2].tolist() == [50, 177, 50] and observation.image[0, 0].tolist() == [100, 100, 100]
    assert "the object is as follows: the {color} cup." in observation.prompt
    assert "semi-transparent green mask" in observation.prompt


def test_the_prompt_of_released_qwen_is_the_released_one():
    facts = (
        "Please optimize the semi-transparent green mask in a point-wise manner based on the image and description "
        "content, so that it covers the target object as accurately as possible. The object description is as follows:"
        "<ref>red cup</ref>"
    )
    blank = np.zeros((2, 2, 3), np.uint8)
    observation = load_dialogue("released_qwen").observe(blank, np.zeros((2, 2), bool), "red cup")
    assert observation.prompt == facts and observation.system == "You are a helpful assistant."


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"first_axis": "row"}, "choose x or y"),
        ({"prompt": "click"}, "no {description}"),
        ({"iou": "IoU"}, "no {iou}"),
        ({"scale": 1}, "fewer than ten positions"),
        ({"scale": "pixels"}, "scale='pixels': a number, or absolute"),
        ({"box_scale": "pixels"}, "box_scale='pixels'"),
    ],
)
def test_unsound_dialogues_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Dialogue(**{"system": "", "prompt": "{description}", **wrong})


@pytest.mark.parametrize("name", ["released_qwen", "released_llava", "nano", "paper", "absolute"])
def test_numbers_that_never_end_are_read_without_dying(name):
    dialogue = load_dialogue(name)
    for digits in ("9" * 400, "9" * 5000):
        seen = (100, 100)
        texts = [f"{sign}: ({digits}, 5)" for sign in (dialogue.positive, dialogue.negative)]
        texts += [f"{sign}: (5, {digits})" for sign in (dialogue.positive, dialogue.negative)]
        texts += [f"<box>(0,0),({digits},5)</box>", f"<box>({digits},{digits}),(5,5)</box>", f"[0, 0, {digits}, 5]"]
        for text in texts:
            assert dialogue.parse(text, width=64, height=48, seen=seen).click is None


def test_the_last_iou_counts_and_is_written_as_the_dialogue_says():
    assert load_dialogue("nano").read_iou("Current IOU: 20, no, Current IOU: 70, Finish") == 0.7
    whole = Dialogue(system="", prompt="{description}", iou="IOU {iou}", iou_decimals=0)
    assert whole.format_iou(0.625) == "IOU 62"


def test_a_dialogue_paints_as_thick_and_counts_as_absolute_as_it_says():
    opaque = Dialogue(system="", prompt="{description}", alpha=1.0)
    seen = opaque.observe(np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool), "x").image
    assert seen[0, 0].tolist() == [0, 255, 0]
    assert Dialogue(system="", prompt="{description}", box_scale="absolute").absolute
    assert not opaque.absolute

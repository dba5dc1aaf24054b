import json
from pathlib import Path

import numpy as np
import pytest

from segagent import overlay
from segagent.types import Click

FIXTURE = Path(__file__).parent / "fixtures" / "overlay.npz"


def picture(height=60, width=80, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def square(height=60, width=80):
    mask = np.zeros((height, width), bool)
    mask[20:40, 30:50] = True
    return mask


def test_overlay_equals_every_recorded_case():
    data = np.load(FIXTURE)
    for index, case in enumerate(json.loads(str(data["cases"]))):
        image, mask = data[f"image_{index}"], data[f"mask_{index}"] > 0
        painted = overlay.overlay_mask(image, mask, tuple(case["color"]), case["alpha"])
        assert painted.dtype == np.uint8 and np.array_equal(painted, data[f"out_{index}"])


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.3, 0.5, 2 / 3, 1.0])
def test_overlay_is_the_truncated_float64_formula_for_every_value(alpha):
    image = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, 2)
    color = (0, 130, 255)
    want = (image * (1 - alpha) + np.array(color) * alpha).astype(np.uint8)
    assert np.array_equal(overlay.overlay_mask(image, np.ones((256, 1), bool), color, alpha), want)


@pytest.mark.parametrize(
    "draw",
    [
        lambda image: overlay.overlay_mask(image, square()),
        lambda image: overlay.overlay_mask(image, np.zeros((60, 80), bool)),
        lambda image: overlay.draw_outline(image, square()),
        lambda image: overlay.draw_clicks(image, [Click(40, 30)]),
        lambda image: overlay.draw_clicks(image, []),
        lambda image: overlay.paint(image, mask=square(), outline=square(), clicks=[Click(1, 2)]),
        lambda image: overlay.paint(image),
    ],
)
def test_nothing_changes_or_shares_its_input(draw):
    image = picture()
    image.setflags(write=False)
    out = draw(image)
    assert np.array_equal(image, picture()) and not np.shares_memory(out, image)
    assert out.shape == image.shape and out.dtype == np.uint8


def test_inputs_of_any_layout():
    image, mask = picture(), square()
    want = overlay.overlay_mask(image, mask)
    assert np.array_equal(overlay.overlay_mask(np.asfortranarray(image), np.asfortranarray(mask)), want)
    assert np.array_equal(overlay.overlay_mask(image[:, ::-1], mask[:, ::-1])[:, ::-1], want)


@pytest.mark.parametrize(
    ("image", "mask", "reason"),
    [
        (picture().astype(float), square(), r"float64 \[60, 80, 3\]; pictures are uint8"),
        (picture()[..., 0], square(), r"uint8 \[60, 80\]"),
        (picture(), square().T, "must cover one image"),
        (picture(), square().astype(np.uint8), "masks are bool"),
    ],
)
def test_a_wrong_image_or_mask_is_refused(image, mask, reason):
    with pytest.raises(ValueError, match=reason):
        overlay.overlay_mask(image, mask)


def test_alpha_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        overlay.overlay_mask(picture(), square(), alpha=1.5)


def test_the_outline_runs_along_the_border_only_and_around_holes():
    mask = np.zeros((100, 100), bool)
    mask[10:90, 10:90] = True
    mask[40:60, 40:60] = False
    out = overlay.draw_outline(np.full((100, 100, 3), 128, np.uint8), mask, (255, 0, 0))
    changed = (out != 128).any(2)
    red = (out == (255, 0, 0)).all(2)
    assert red[10, 50] and red[50, 10] and red[39, 50]
    assert not changed[25, 25] and not changed[50, 50] and not changed[2, 2]


def test_positive_and_negative_clicks_differ_in_shape_not_only_in_colour():
    image = np.full((61, 61, 3), 128, np.uint8)
    plus = overlay.draw_clicks(image, [Click(30, 30, True)], radius=9)
    minus = overlay.draw_clicks(image, [Click(30, 30, False)], radius=9)
    column = slice(22, 39), 30
    assert (plus[column] == plus[30, 30]).all() and not (minus[column] == minus[30, 30]).all()
    assert (plus[30, 22:39] == plus[30, 30]).all() and (minus[30, 22:39] == minus[30, 30]).all()
    assert plus[30, 30, 1] > plus[30, 30, 0] and minus[30, 30, 0] > minus[30, 30, 1]
    # A white rim stands around both, so that they show on any picture.
    assert (minus[30, 40] == 255).all() and (plus[30, 40] == 255).all()


def test_clicks_are_numbered_in_order():
    image = np.full((120, 120, 3), 128, np.uint8)
    first = overlay.draw_clicks(image, [Click(60, 60)])
    assert not np.array_equal(first, overlay.draw_clicks(image, [Click(60, 60)], first_number=2))
    both = overlay.draw_clicks(image, [Click(20, 90), Click(60, 60)])
    alone = overlay.draw_clicks(image, [Click(60, 60)], first_number=2)
    assert np.array_equal(both[30:75, 45:], alone[30:75, 45:])


@pytest.mark.parametrize("corner", [(0, 0), (79, 0), (0, 59), (79, 59)])
def test_a_click_in_a_corner_keeps_its_number_in_the_picture(corner):
    image = np.full((60, 80, 3), 128, np.uint8)
    signs = [overlay.draw_clicks(image, [Click(*corner)], first_number=number) for number in (1, 8)]
    assert (signs[0] != signs[1]).any(2).sum() > 5


def test_paint_scales_masks_and_clicks_with_the_picture():
    image = np.zeros((50, 100, 3), np.uint8)
    mask = np.zeros((50, 100), bool)
    mask[:, 50:] = True
    out = overlay.paint(image, mask=mask, clicks=[Click(99, 49, False)], side=300)
    assert out.shape == (150, 300, 3)
    assert (out[10, 160] == (0, 127, 0)).all() and (out[10, 140] == 0).all()
    assert out[149, 298, 0] > 200  # the red of the minus in the far corner
    assert overlay.paint(image, side=20).shape == (10, 20, 3)
    assert overlay.paint(np.zeros((1, 900, 3), np.uint8), side=90).shape == (1, 90, 3)


def test_a_strip_holds_every_panel_in_reading_order():
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]  # captions are grey
    panels = [np.full((30, 40, 3), color, np.uint8) for color in colors]
    strip = overlay.picture_strip(panels, ["a", "b\nmore", ""], columns=2, margin=5)
    places = [np.argwhere((strip == color).all(2)) for color in colors]
    assert [len(place) for place in places] == [30 * 40] * 3
    (top, left), (second_top, second_left), (third_top, third_left) = (place[0].tolist() for place in places)
    assert top == second_top < third_top and left == third_left < second_left


def test_a_long_caption_wraps_and_makes_room():
    panel = np.zeros((30, 120, 3), np.uint8)
    short, long = (overlay.picture_strip([panel], [text]) for text in ("word", "a caption of many words " * 4))
    assert long.shape[0] > short.shape[0] + 40 and long.shape[1] == short.shape[1]


def test_captions_of_any_script_are_drawn_and_wrapped():
    panel = picture(40, 80)
    one, other = (overlay.picture_strip([panel], [text]) for text in ("größer 猫", "gr??er ?"))
    assert one.shape == other.shape and not np.array_equal(one, other)
    short, long = (overlay.picture_strip([panel], ["猫" * count]) for count in (3, 30))  # without spaces
    assert long.shape[1] == short.shape[1] and long.shape[0] > short.shape[0] + 60
    margin = np.concatenate([long[:, :10], long[:, -10:]], 1)
    assert (margin == margin[0, 0]).all(), "nothing reaches out of the panel"


def test_panels_without_captions_are_refused():
    with pytest.raises(ValueError, match="2 panels with 1 captions"):
        overlay.picture_strip([picture(), picture()], ["a"])
    with pytest.raises(ValueError, match="0 panels"):
        overlay.picture_strip([], [])


def test_an_outline_is_as_thick_as_the_longer_side_asks():
    image, mask = np.full((60, 2000, 3), 128, np.uint8), np.zeros((60, 2000), bool)
    mask[:, 1000:] = True
    row = overlay.draw_outline(image, mask, (255, 0, 0))[30]
    assert (row == (255, 0, 0)).all(1).sum() >= 7, "8 pixels, between two hairlines"


def test_a_click_is_drawn_in_the_middle_of_its_pixel():
    image = np.zeros((10, 10, 3), np.uint8)
    made = overlay.paint(image, clicks=[Click(4, 4)], side=200)
    rows, _ = np.nonzero((made == (0, 112, 32)).all(2))
    assert (rows.min() + rows.max()) / 2 == pytest.approx(90, abs=1)
    one, seven = (overlay.paint(image, clicks=[Click(4, 4)], side=200, first_number=n) for n in (1, 7))
    assert not np.array_equal(one, seven), "they are numbered"


def test_a_strip_is_as_large_as_its_panels():
    panel = np.zeros((10, 50, 3), np.uint8)
    assert overlay.picture_strip([panel] * 2, ["a", "b"], columns=6, margin=10).shape[1] == 2 * 60 + 10
    made = overlay.picture_strip([panel] * 2, ["", ""], columns=1, margin=10)
    rows = np.flatnonzero((made == 0).all(2).any(1))
    assert len(rows) == 20 and rows[0] == 10 and rows[10] >= 10 + 10 + 10, "a margin lies between them"


def test_a_mask_made_smaller_has_no_half_pixels():
    image, mask = np.zeros((100, 100, 3), np.uint8), np.zeros((100, 100), bool)
    mask[:, :51] = True
    assert set(np.unique(overlay.paint(image, mask=mask, side=50)[..., 1])) <= {0, 127}

import numpy as np
import pytest
from PIL import Image

from segagent.data.images import image_size, load_image, load_label_map, resolve_inside


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def test_plain_and_grey_pictures(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "rgb.png")
    Image.fromarray(picture[:, :, 0]).save(tmp_path / "grey.png")
    assert (load_image(tmp_path / "rgb.png") == picture).all()
    assert (load_image(tmp_path / "grey.png") == picture[:, :, :1]).all()


def test_sixteen_bit_keeps_the_upper_byte(tmp_path, picture):
    deep = picture[:, :, 0].astype(np.uint16) * 256 + 77
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        assert (load_image(tmp_path / name) == picture[:, :, :1]).all()


def test_palette_cmyk_and_transparency(tmp_path, picture):
    Image.fromarray(picture).quantize(200).save(tmp_path / "palette.png")
    Image.fromarray(picture).convert("CMYK").save(tmp_path / "cmyk.tif")
    rgba = np.dstack([picture, np.full((9, 13), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    assert np.abs(load_image(tmp_path / "palette.png").astype(int) - picture).mean() < 12
    assert np.abs(load_image(tmp_path / "cmyk.tif").astype(int) - picture).max() <= 2
    seen = load_image(tmp_path / "alpha.png")
    assert seen[0, 0].tolist() == [255, 255, 255] and (seen[1:] == picture[1:]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_to_pictures_masks_and_sizes(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "turned.png", exif=exif)
    turn = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}[orientation]
    upright = np.rot90(picture, turn[0])
    upright = upright[:, ::-1] if turn[1] else upright
    seen = load_image(tmp_path / "turned.png")
    assert seen.shape == upright.shape and (seen == upright).all()
    assert image_size(tmp_path / "turned.png") == upright.shape[:2]
    Image.fromarray(picture[:, :, 0]).save(tmp_path / "mask.png", exif=exif)
    assert load_label_map(tmp_path / "mask.png").shape == upright.shape[:2]


def test_broken_files_name_themselves(tmp_path, picture):
    Image.fromarray(np.kron(picture, np.ones((40, 40, 1), np.uint8))).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not a picture")
    for name, reason in (("none.jpg", "no such"), ("cut.jpg", "broken image"), ("text.jpg", "not an image")):
        with pytest.raises(ValueError, match=rf"{name}: {reason}"):
            load_image(tmp_path / name)


def test_label_maps_keep_their_numbers(tmp_path):
    labels = np.array([[0, 1, 128], [255, 7, 0]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "grey.png")
    palette = Image.new("P", (3, 2))
    palette.putdata(labels.ravel().tolist())
    palette.putpalette([value for number in range(256) for value in (number, 0, 255 - number)])
    palette.save(tmp_path / "palette.png")
    Image.fromarray(np.repeat(labels[:, :, None], 3, 2)).save(tmp_path / "rgb.png")
    Image.fromarray(labels > 0).save(tmp_path / "bits.png")
    for name in ("grey.png", "palette.png", "rgb.png"):
        assert (load_label_map(tmp_path / name) == labels).all(), name
    assert ((load_label_map(tmp_path / "bits.png") > 0) == (labels > 0)).all()


def test_a_colour_picture_is_no_mask(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match=r"photo.png: a colour picture where a mask was expected"):
        load_label_map(tmp_path / "photo.png")


def test_names_in_data_files_stay_inside_their_folder(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    assert resolve_inside(inside, "a/b.jpg") == inside / "a/b.jpg"
    (inside / "link").symlink_to(tmp_path)
    for name in ("../secret.jpg", "/etc/passwd", "a/../../x", "link/x"):
        with pytest.raises(ValueError, match="leads out of its folder"):
            resolve_inside(inside, name)


def test_small_numbers_of_many_bits_are_what_they_say(tmp_path):
    Image.fromarray(np.full((4, 4), 200, np.int32)).save(tmp_path / "a.tif")
    assert (load_image(tmp_path / "a.tif") == 200).all()
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "b.tif")
    with pytest.raises(ValueError, match="save it as 8 or 16 bit"):
        load_image(tmp_path / "b.tif")


def test_malformed_exif_turns_nothing(tmp_path, picture):
    """Pillow's own `exif_transpose` writes the block anew, and dies of tags that nobody asked for."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    path = tmp_path / "b.png"
    content = (tmp_path / "a.png").read_bytes()
    block = exif.tobytes()
    found = 0
    for place in range(6, len(block)):
        for value in (0, 255):
            broken = block[:place] + bytes([value]) + block[place + 1 :]
            Image.fromarray(picture).save(path, exif=broken)
            size, loaded = image_size(path), load_image(path)
            assert loaded.shape[:2] == size in (picture.shape[:2], picture.shape[1::-1])
            found += loaded.shape[:2] != picture.shape[:2]
    assert content and found, "some still say that it is turned"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_tiff_has_the_size_of_its_pixels(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    turned = load_image(tmp_path / "a.tif")
    assert image_size(tmp_path / "a.tif") == turned.shape[:2]
    assert np.array_equal(turned, load_image(tmp_path / "a.png"))


def test_what_is_transparent_in_a_mask_is_nothing(tmp_path):
    alpha = np.zeros((4, 6), np.uint8)
    alpha[1:3, 2:5] = 255
    white = np.full((4, 6), 255, np.uint8)
    Image.fromarray(np.dstack([white, white, white, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([white, alpha]), "LA").save(tmp_path / "la.png")
    indices = Image.fromarray(np.where(alpha > 0, 255, 7).astype(np.uint8), "P")
    indices.putpalette([value for value in range(256) for _ in range(3)])
    indices.save(tmp_path / "p.png", transparency=7)
    Image.fromarray(np.where(alpha > 0, 255, 7).astype(np.uint8)).save(tmp_path / "l.png", transparency=7)
    for name in ("rgba", "la", "p", "l"):
        assert np.array_equal(load_label_map(tmp_path / f"{name}.png"), alpha)


def test_deep_pictures_that_use_a_part_of_their_range(tmp_path, picture, caplog):
    grey = picture[:, :, 0]
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "unit.tif")
    np.testing.assert_array_equal(load_image(tmp_path / "unit.tif")[:, :, 0], grey)
    assert not caplog.text
    Image.fromarray(grey.astype(np.uint16) * 16).save(tmp_path / "twelve.png")
    load_image(tmp_path / "twelve.png")
    assert "twelve.png: of 16 bits 12 are used at most" in caplog.text

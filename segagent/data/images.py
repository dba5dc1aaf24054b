"""Image and mask files -> arrays in the repository's units. The only place where a picture file is opened."""

from __future__ import annotations

import io
import logging
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"})
# Pictures that nothing here reads, so that a folder of them is not taken for an empty one.
OTHER_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".psd"})

# Pillow's own guard against decompression bombs stays on, at a size that scans and aerial photographs still pass.
Image.MAX_IMAGE_PIXELS = 400_000_000


_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow raises at malformed EXIF, beside what it raises at malformed pictures.
_BROKEN_EXIF = (struct.error, TypeError, AttributeError, KeyError, IndexError, OverflowError)
_BROKEN = (OSError, SyntaxError, EOFError, Image.DecompressionBombError, *_BROKEN_EXIF)


def _orientation(image: Image.Image) -> int:
    """As EXIF says, 1 to 8; 1 where it cannot be read. Pillow turns TIFFs by itself, when or before they are loaded."""
    if image.format == "TIFF":
        return 1
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except (*_BROKEN, ValueError):
        return 1
    return found if found in _TURNS else 1


def resolve_inside(root: str | Path, name: str) -> Path:
    """`root/name`, refused with `ValueError` when it leads out of `root` (`..`, absolute paths, links)."""
    base = Path(root).resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise ValueError(
            f"{name!r} leads out of its folder {root}, to {path}: data files may only name what lies inside; where it "
            "is through a link, give the folder that it leads to"
        )
    return Path(os.path.abspath(Path(root) / name))


def _open(path: str | Path, source: BinaryIO | None = None) -> Image.Image:
    """source: the file's bytes, where `path` only names them."""
    if source is None and not Path(path).is_file():
        raise ValueError(f"{path}: no such image file")
    try:
        image = Image.open(path if source is None else source)
        image.load()
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not an image that Pillow can read") from None
    except _BROKEN as error:
        raise ValueError(f"{path}: broken image ({error}); fetch the file again") from None
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _to_eight_bits(array: np.ndarray, path: str | Path) -> np.ndarray:
    """16-bit and 32-bit grey -> uint8. 16-bit integers keep their upper byte, 32-bit ones too, unless all are at most
    255; a float image lies in [0, 255], or in [0, 1]."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "ui" and array.dtype.itemsize > 2 and array.size and 0 <= array.min() <= array.max() <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind in "ui" and array.size and array.min() >= 0 and array.max() <= 65535:
        if array.max() < 4096:
            log.warning("%s: of 16 bits 12 are used at most, so that it is nearly black; save it as 8 bit", path)
        return (array.astype(np.uint32) >> 8).astype(np.uint8)
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 255:
        return np.rint(array * 255 if array.max() <= 1 else array).astype(np.uint8)
    raise ValueError(f"{path}: {array.dtype} pixels between {array.min()} and {array.max()}; save it as 8 or 16 bit")


def load_image(path: str | Path, source: BinaryIO | None = None) -> np.ndarray:
    """Any picture file -> `[H, W, 3]` uint8 RGB, turned as EXIF says; transparency is laid on white.

    source: its bytes, where they lie in another file that `path` names in messages. Greyscale, 16-bit, palette and CMYK
    files work. Raises `ValueError` naming the file when it is missing or broken.
    """
    image = _open(path, source)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        grey = _to_eight_bits(np.asarray(image), path)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return np.array(image.convert("RGB"))


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What is left of `[H, W, 3]` uint8 RGB after Pillow wrote it as JPEG (`quality` 1..95) and read it again."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.array(Image.open(buffer).convert("RGB"))


def load_label_map(path: str | Path) -> np.ndarray:
    """A mask file -> `[H, W]` integer labels as stored: palette indices, grey values, or the one channel of RGB(A).

    What is wholly transparent is 0. EXIF rotation is applied, as it is to the image. Raises `ValueError` on a colour
    picture whose channels differ.
    """
    image = _open(path)
    if image.mode == "1":
        image = image.convert("L")
    unseen = None
    if image.mode in ("RGBA", "LA") or (image.mode in ("L", "P", "RGB") and "transparency" in image.info):
        unseen = np.asarray(image.convert("RGBA").getchannel("A")) == 0
    if image.mode in ("RGBA", "LA"):
        image = image.convert("RGB")
    labels = np.asarray(image)
    if unseen is not None:
        labels = np.where(unseen if labels.ndim == 2 else unseen[:, :, None], 0, labels)
    if labels.ndim == 3:
        if (labels != labels[:, :, :1]).any():
            raise ValueError(f"{path}: a colour picture where a mask was expected; save it as grey or palette PNG")
        labels = labels[:, :, 0]
    return labels


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) after EXIF rotation, without decoding the pixels."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such image file")
    try:
        with Image.open(path) as image:
            turned = _orientation(image) >= 5
            width, height = image.size
    except _BROKEN as error:
        raise ValueError(f"{path}: not an image that Pillow can read ({error})") from None
    return (width, height) if turned else (height, width)

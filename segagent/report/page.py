"""A self-contained HTML page: (title, body) -> text; pictures -> addresses that hold them."""

from __future__ import annotations

import base64
import os
from html import escape
from pathlib import Path

import cv2
import numpy as np

from segagent.report.style import CSS

_QUALITY = 82


def write_page(path: Path, text: str) -> None:
    """Leaves either the old file or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(text.encode("utf-8", "replace"))  # a served model's reply may hold a lone surrogate
    os.replace(partial, path)


def page(title: str, body: str) -> str:
    """The page around a body; its style sheet is for light and dark screens, narrow ones and paper."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def data_uri(picture: np.ndarray) -> str:
    """`[h, w, 3]` uint8 RGB -> WebP in a `data:` address."""
    _, encoded = cv2.imencode(".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    return "data:image/webp;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")

"""Many masks on one page, the first ones first: cards -> one self-contained HTML file that opens anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from segagent.overlay import paint
from segagent.report.page import data_uri, page, write_page
from segagent.report.pictures import LoadImage, load_or_grey
from segagent.types import Trajectory


@dataclass(frozen=True, eq=False)
class Card:
    """trajectory: what is shown, its text and picture. mask: `[H, W]` bool. facts: a line of text each, below it."""

    trajectory: Trajectory
    mask: np.ndarray
    facts: tuple[str, ...] = ()


def write_contact_sheet(
    path: str | Path,
    *,
    title: str,
    summary: Mapping[str, Any],
    cards: Iterable[Card],
    load_image: LoadImage,
    side: int = 230,
) -> None:
    """Writes the page; equal inputs give equal bytes.

    summary: name -> number or text, above the cards. load_image: trajectory -> `[H, W, 3]` uint8; what it raises is
    told on the card. side: pixels of a picture's longer side.
    """
    lines = "".join(
        f"<tr><th scope='row'>{escape(name.replace('_', ' '))}</th><td>{escape(_text(value))}</td></tr>"
        for name, value in summary.items()
    )
    shown = "".join(_card(number, card, load_image, side) for number, card in enumerate(cards, 1))
    body = (
        f"<header><h1>{escape(title)}</h1></header>\n<section><div class='scroll'><table class='counts'>"
        f"<tbody>{lines}</tbody></table></div></section>\n"
        f"<section><h2>Masks <small>the most suspicious first</small></h2><div class='cards'>{shown}</div></section>"
    )
    write_page(Path(path), page(title, body))


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "\N{EN DASH}" if value is None else str(value)


def _card(number: int, card: Card, load_image: LoadImage, side: int) -> str:
    trajectory = card.trajectory
    image, reason = load_or_grey(trajectory, load_image)
    picture = paint(image, mask=card.mask, outline=card.mask, side=side)
    height, width = picture.shape[:2]
    facts = "".join(f"<p>{escape(fact)}</p>" for fact in (*card.facts, *([reason] if reason else ())))
    origin = f"{trajectory.sample_id} {trajectory.image_name}"
    return (
        f"<article><img loading='lazy' width='{width}' height='{height}' alt='mask {number}' src='{data_uri(picture)}'>"
        f"<h3>{number}. {escape(trajectory.text) or '(no description)'}</h3>{facts}"
        f"<p class='origin'>{escape(origin)}</p></article>"
    )

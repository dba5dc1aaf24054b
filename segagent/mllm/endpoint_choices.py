"""What a served model's token probabilities say of given beginnings of a reply: one answer -> their probabilities.

The server tells, at each token that it wrote, the likeliest ones and their probabilities. Along the reply these say how
a text goes on; of a beginning that the reply did not take nothing more is known, so that all texts which begin with it
are taken to be equally likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

TOP = 20  # likeliest tokens asked for: the most that the protocol allows


class NotTold(Exception):
    """The server tells no alternatives to its tokens; asking again would not help."""


def choice_weights(tokens: Sequence[Any], prefix: str, choices: Sequence[str]) -> tuple[float, ...] | None:
    """Probabilities of `choices`, of sum 1; None when the reply begins with none of them.

    tokens: `logprobs.content` of a completion, entries of `token`, `logprob` and `top_logprobs`. prefix: the text that
    the reply was made to begin with. Raises `NotTold` when the server tells no alternatives.
    """
    # The blank before a number may be a part of its token, so that it counts among what is weighed.
    start = len(_shared(min(choices), max(choices)).rstrip())
    weights = dict.fromkeys(choices, 0.0)
    text, mass, left = prefix, 1.0, [choice for choice in choices if _agree(choice, prefix)]
    for token in tokens:
        after = text + token["token"]
        if len(left) < 2:
            break
        if len(after) > start:
            options = {option["token"]: math.exp(option["logprob"]) for option in token.get("top_logprobs") or ()}
            if not options:
                raise NotTold(
                    "the server tells no top_logprobs, so that there is no expected IoU; say reward.number=greedy, or "
                    "serve the model where they are told"
                )
            options.setdefault(token["token"], math.exp(token["logprob"]))
            below = {option: [choice for choice in left if _agree(choice, text + option)] for option in options}
            total = sum(options[option] for option, found in below.items() if found)
            if not total:
                break
            for option, found in below.items():
                if found and option != token["token"]:
                    share = mass * options[option] / total
                    weights |= {choice: weights[choice] + share / len(found) for choice in found}
            mass = mass * options[token["token"]] / total if below[token["token"]] else 0.0
        text, left = after, [choice for choice in left if _agree(choice, after)]
    if len(text) <= start or (not left and mass > 0):
        return None
    weights |= {choice: weights[choice] + mass / len(left) for choice in left}
    total = sum(weights.values())
    return tuple(weights[choice] / total for choice in choices) if total else None


def _shared(first: str, second: str) -> str:
    """The longest beginning of both."""
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    return first[:same]


def _agree(choice: str, text: str) -> bool:
    """Whether a reply that begins with `text` may be one that begins with `choice`."""
    return choice.startswith(text) or text.startswith(choice)

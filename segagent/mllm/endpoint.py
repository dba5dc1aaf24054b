"""A served model as an MLLM: observations -> chat requests -> completions. Any server that speaks the OpenAI protocol.

Pictures travel as PNG data URLs, so nothing is lost on the way. Requests run side by side up to a bound; answers come
back in the order of the observations, each exactly once, or the call raises. vLLM, SGLang, TGI and hosted models differ
in what they understand beyond the protocol; those differences are arguments.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
from PIL import Image

from segagent.dialogue import Observation
from segagent.mllm.base import Completion, check_request
from segagent.mllm.endpoint_choices import TOP, NotTold, choice_weights
from segagent.mllm.endpoint_transport import Stopped, Transport
from segagent.mllm.image_size import bounded_size

if TYPE_CHECKING:
    from torch import Tensor

_CONTINUE = {"add_generation_prompt": False, "continue_final_message": True}


@dataclass(frozen=True, slots=True)
class _Request:
    """What one request asks for. picture: a data URL. seed: None for greedy. choices: see `MLLM.generate`."""

    observation: Observation
    picture: str
    prefix: str
    num_samples: int
    temperature: float
    seed: int | None
    choices: tuple[str, ...] | None = None


def _png_url(image: np.ndarray) -> str:
    written, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    if not written:
        raise ValueError(f"image {list(image.shape)}: cannot be written as PNG")
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def _completion(choice: Any, row: _Request) -> Completion:
    """One entry of `choices`. Raises `ValueError` when it is no such entry."""
    weights = None
    try:
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        tokens = (choice.get("logprobs") or {}).get("content")
        log_prob = float(sum(token["logprob"] for token in tokens)) if tokens else None
        if row.choices is not None:
            weights = choice_weights(tokens or ({"token": text or ""},), row.prefix, row.choices)
    except (KeyError, TypeError, AttributeError):
        raise ValueError("a choice of the answer has not the form of a chat completion") from None
    if text is None:  # a refusal or a tool call: words that no dialogue reads
        text = choice["message"].get("refusal") or ""
    if not isinstance(text, str):
        raise ValueError("the content of a choice is no text")
    return Completion(text, log_prob, reason not in ("length", "content_filter"), weights)


def _read_choices(answer: Any, row: _Request) -> list[Completion]:
    """The completions of an answer, in the order of their index, none twice. Raises `ValueError` on another form."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ValueError("an answer without choices")
    by_index = {}
    for place, choice in enumerate(choices):
        completion = _completion(choice, row)
        index = choice.get("index")
        by_index[index if isinstance(index, int) else place] = completion
    return [by_index[index] for index in sorted(by_index)]


class Endpoint:
    """A model behind a URL; see `MLLM`.

    path: the name under which the server knows the model. url: up to and including `/v1`. api_key_variable: environment
    variable of the key, see `Transport`, as are timeout, attempts, backoff and longest_wait. dialogue: the one that the
    model was trained on. concurrency: requests under way at once; None: found while the server answers, up to
    `most_concurrency`, see `Gate`. request_per_sample: ask for each sample by itself, so that the k-th follows from
    (seed, k) on servers that honour seeds; else by `n`, where the server shares the prompt but a sample may depend on
    how many were asked for. log_probs: ask for them; their sum is what the server counts, on most without the end
    token. The probabilities of choices are read off what the server tells of each token of the first sample
    (`endpoint_choices`); they need log_probs. prefix_mode: how a reply is made to begin with given text: `vllm` (vLLM
    and SGLang: `continue_final_message`), `last_message` (servers that go on from an assistant message at the end by
    themselves), `refuse`. multiple, min_pixels, max_pixels: pictures are resized to multiples of so many pixels
    within these bounds before they are sent (28 for Qwen2-VL and Qwen2.5-VL, 32 for Qwen3-VL), so that the server has
    nothing left to resize and `seen_size` is right; multiple 0: sent as they are. extra: further fields of the
    request body; a field set to null is left out.
    """

    def __init__(
        self,
        *,
        path: str,
        url: str = "http://127.0.0.1:8000/v1",
        api_key_variable: str = "OPENAI_API_KEY",
        dialogue: str | None = None,
        concurrency: int | None = None,
        most_concurrency: int = 64,
        timeout: float = 120.0,
        attempts: int = 6,
        backoff: float = 1.0,
        longest_wait: float = 60.0,
        request_per_sample: bool = False,
        log_probs: bool = True,
        prefix_mode: str = "vllm",
        multiple: int = 0,
        min_pixels: int = 3136,
        max_pixels: int = 1003520,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if not path:
            raise ValueError("mllm.path: the name under which the server knows the model")
        if prefix_mode not in ("vllm", "last_message", "refuse"):
            raise ValueError(f"prefix_mode={prefix_mode!r}: choose vllm, last_message or refuse")
        self.path, self.dialogue = path, dialogue
        self.request_per_sample, self.log_probs, self.prefix_mode = request_per_sample, log_probs, prefix_mode
        self.multiple, self.min_pixels, self.max_pixels = multiple, min_pixels, max_pixels
        self.extra = dict(extra or {})
        self._checked = False
        self._transport = Transport(
            url=url,
            api_key_variable=api_key_variable,
            concurrency=concurrency,
            most_concurrency=most_concurrency,
            timeout=timeout,
            attempts=attempts,
            backoff=backoff,
            longest_wait=longest_wait,
        )

    @classmethod
    def from_checkpoint(cls, path: str, **options: Any) -> Self:
        """The model that the server calls `path`, with the constructor's options."""
        return cls(path=path, **options)

    def seen_size(self, *, width: int, height: int) -> tuple[int, int]:
        """See `MLLM.seen_size`. Raises `ValueError` while the server resizes by a rule that is not known here."""
        if not self.multiple:
            raise ValueError(
                "mllm.multiple=0: the server resizes by a rule of its own, so absolute coordinates cannot be read; set "
                "mllm.multiple, min_pixels and max_pixels to those of its model, or take a relative dialogue"
            )
        return bounded_size(
            width=width,
            height=height,
            multiple=self.multiple,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
        )

    def encode(self, observations: Sequence[Observation], answers: Sequence[str] | None = None) -> Mapping[str, Tensor]:
        """Raises `ValueError`: a served model shows no tokens."""
        raise ValueError(
            "an endpoint cannot be trained: it shows no tokens; take mllm=transformers_vlm and a checkpoint"
        )

    def generate(
        self,
        observations: Sequence[Observation],
        *,
        prefixes: Sequence[str] | None = None,
        num_samples: int = 1,
        temperature: float = 0.0,
        seeds: Sequence[int] | None = None,
        max_new_tokens: int = 64,
        greedy_first: bool = False,
        choices: Sequence[str] | None = None,
    ) -> list[list[Completion]]:
        """See `MLLM.generate`. Raises `OSError` when the server is or goes down, `ValueError` when it refuses."""
        prefixes = [""] * len(observations) if prefixes is None else prefixes
        seeds = [0] * len(observations) if seeds is None else seeds
        check_request(
            observations,
            prefixes,
            seeds,
            num_samples=num_samples,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
        )
        shares = self._shares(1 if temperature == 0 else num_samples, greedy_first and temperature > 0)
        if choices is not None and not self.log_probs:
            raise ValueError("mllm.log_probs=false: an expected IoU needs them; set it true, or reward.number=greedy")
        asked = None if choices is None else tuple(choices)
        rows = self._rows(observations, prefixes, shares, temperature, seeds, asked)
        if not rows:
            return []
        self._check_server()
        stop = threading.Event()
        with ThreadPoolExecutor(min(len(rows), self._transport.gate.threads)) as pool:
            futures = [pool.submit(self._complete, row, max_new_tokens, stop) for row in rows]
            try:
                answered = self._collect(futures, stop)
            except NotTold as error:
                raise ValueError(f"{self._transport.url}: {error}") from None
            finally:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        if temperature == 0:
            return [completions * num_samples for completions in answered]
        groups = (answered[start : start + len(shares)] for start in range(0, len(answered), len(shares)))
        made = [[completion for part in group for completion in part] for group in groups]
        return [[replace(completion, weights=row[0].weights) for completion in row] for row in made]

    @staticmethod
    def _collect(futures: Sequence[Any], stop: threading.Event) -> list[list[Completion]]:
        """Results in order; the first failure stops the requests that are still waiting, and is the one raised."""
        for future in futures:
            future.add_done_callback(lambda done: done.cancelled() or done.exception() is None or stop.set())
        failures = [error for error in (future.exception() for future in futures) if error is not None]
        told = [error for error in failures if not isinstance(error, Stopped)]
        if told:
            raise told[0]
        return [future.result() for future in futures]

    def _shares(self, num_samples: int, greedy_first: bool) -> list[tuple[int, bool]]:
        """(samples, whether greedy) of each of the requests that make up the samples of one observation."""
        if self.request_per_sample:
            return [(1, greedy_first and k == 0) for k in range(num_samples)]
        if not greedy_first:
            return [(num_samples, False)]
        return [(1, True), (num_samples - 1, False)] if num_samples > 1 else [(1, True)]

    def _rows(
        self,
        observations: Sequence[Observation],
        prefixes: Sequence[str],
        shares: Sequence[tuple[int, bool]],
        temperature: float,
        seeds: Sequence[int],
        choices: tuple[str, ...] | None,
    ) -> list[_Request]:
        if self.prefix_mode == "refuse" and any(prefixes):
            raise ValueError(
                "a reply should begin with given text, and mllm.prefix_mode=refuse; set vllm or last_message if the "
                "server can go on from it"
            )
        rows = []
        for observation, prefix, seed in zip(observations, prefixes, seeds, strict=True):
            picture = _png_url(self._resized(observation.image))
            for k, (count, greedy) in enumerate(shares):
                heat = 0.0 if greedy else temperature
                sent = None if heat == 0 else int(np.random.SeedSequence([seed, k]).generate_state(1)[0] >> 1)
                rows.append(_Request(observation, picture, prefix, count, heat, sent, choices if k == 0 else None))
        return rows

    def _resized(self, image: np.ndarray) -> np.ndarray:
        if not self.multiple:
            return image
        size = self.seen_size(width=image.shape[1], height=image.shape[0])
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def _check_server(self) -> None:
        """Once, before the first request: is there a server, and does it know the model?"""
        if self._checked:
            return
        served = self._transport.served_models()
        if served is not None and self.path not in served:
            raise ValueError(f"mllm.path={self.path!r}: {self._transport.url} serves {', '.join(served) or 'nothing'}")
        self._checked = True

    def _body(self, row: _Request, num_samples: int, max_new_tokens: int) -> dict[str, Any]:
        content = [
            {"type": "image_url", "image_url": {"url": row.picture}},
            {"type": "text", "text": row.observation.prompt},
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if row.observation.system:
            messages.insert(0, {"role": "system", "content": row.observation.system})
        body = {"model": self.path, "messages": messages, "max_tokens": max_new_tokens, "temperature": row.temperature}
        body["top_p"] = 1.0  # else servers take that of the checkpoint's generation_config.json
        if row.prefix:
            messages.append({"role": "assistant", "content": row.prefix})
            body |= _CONTINUE if self.prefix_mode == "vllm" else {}
        if num_samples > 1:
            body["n"] = num_samples
        if row.seed is not None:
            body["seed"] = row.seed
        if self.log_probs:
            body["logprobs"] = True
        if row.choices is not None:
            body["top_logprobs"] = TOP
        body |= self.extra
        return {key: value for key, value in body.items() if value is not None}

    def _complete(self, row: _Request, max_new_tokens: int, stop: threading.Event) -> list[Completion]:
        """All samples of a row. A server that gives fewer than `n` is asked again for the rest."""
        completions: list[Completion] = []
        while len(completions) < row.num_samples:
            seed = None if row.seed is None else (row.seed + len(completions)) % 2**31
            body = self._body(replace(row, seed=seed), row.num_samples - len(completions), max_new_tokens)
            completions += self._transport.post(
                "/chat/completions", body, lambda answer: _read_choices(answer, row), stop
            )
        return completions[: row.num_samples]

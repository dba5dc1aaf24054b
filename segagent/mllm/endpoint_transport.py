"""JSON to a server and back, however unsteady: (path, body) -> answer, with timeouts, retries and waits.

What may pass by itself (no connection, a slow or cut-off answer, 408, 409, 425, 429, 5xx, an answer that is no JSON of
the expected form) is asked again after a wait that doubles; what the server refuses is not. The key never leaves this
file: not in errors, not in a repr, not in a config.
"""

from __future__ import annotations

import email.utils
import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from segagent.mllm.endpoint_gate import Gate
from segagent.types import RefusedError

Answer = TypeVar("Answer")
_MAY_PASS = frozenset({408, 409, 425, 429})  # beside every 5xx
_OF_A_REQUEST = frozenset({400, 413, 422})  # what is refused is this one, not the server's user
_OVERLOAD = frozenset({429, 503})
_AT_ONCE = 20.0  # seconds within which a server shows that it is there
_SHOWN = 300  # characters of a server's words in an error

logging.getLogger("httpx").setLevel(logging.WARNING)  # one line per request otherwise


class Stopped(Exception):
    """Another request of the same call has failed for good, so this one is not waited for."""


class _Passing(Exception):
    """A failure that may pass. wait: seconds that the server asks for, None when it does not say. overload: whether it
    is a sign that the server has too much to do."""

    def __init__(self, reason: str, wait: float | None = None, overload: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.overload = wait, overload


def _seconds_asked_for(value: str | None) -> float | None:
    """A Retry-After header: seconds, or a date; None when absent or unreadable."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


class Transport:
    """One server. Safe to use from many threads.

    url: what the paths are appended to. api_key_variable: environment variable that holds the key; unset or empty: none
    is sent. concurrency, most_concurrency: requests under way at once, see `Gate`. timeout: seconds for one attempt,
    answer included. attempts: of a request in all. backoff: seconds before the second attempt, doubled for each further
    one, times a random factor in [0.5, 1]. longest_wait: seconds; a server that asks for more in Retry-After is given
    up.
    """

    def __init__(
        self,
        *,
        url: str,
        api_key_variable: str,
        concurrency: int | None,
        most_concurrency: int,
        timeout: float,
        attempts: int,
        backoff: float,
        longest_wait: float,
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(f"url={url!r}: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError(f"url={url!r}: not an http(s) address, such as http://127.0.0.1:8000/v1")
        if parsed.userinfo or parsed.query:
            raise ValueError("url: holds credentials or a query; put the key into the environment, not into settings")
        for name, value in (("timeout", timeout), ("attempts", attempts)):
            if value <= 0:
                raise ValueError(f"{name}={value}: more than 0")
        self.url = url.rstrip("/")
        self.attempts, self.backoff, self.longest_wait, self.timeout = attempts, backoff, longest_wait, timeout
        self.api_key_variable = api_key_variable
        self._key = os.environ.get(api_key_variable, "").strip() if api_key_variable else ""
        if not (self._key.isascii() and self._key.isprintable()):
            # httpx would show it in its message.
            raise ValueError(f"{api_key_variable}: holds characters that no header can carry (a line break?)")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self.gate = Gate(concurrency=concurrency, most=most_concurrency)
        limits = httpx.Limits(max_connections=self.gate.most, max_keepalive_connections=self.gate.most)
        self._client = httpx.Client(headers=headers, timeout=timeout, limits=limits)
        self._random = random.Random()

    def __getstate__(self) -> None:
        raise TypeError("a Transport holds a key and open connections: make one per process instead of copying it")

    def _clean(self, text: str) -> str:
        """A server's words, short, on one line, without the key that some servers repeat."""
        shown = " ".join(text.split())
        if self._key:
            shown = shown.replace(self._key, "***")
        return shown[:_SHOWN] + ("..." if len(shown) > _SHOWN else "")

    def served_models(self) -> list[str] | None:
        """Names the server lists under /models; None when it lists none. One attempt, so that a dead one shows at once.

        Raises `OSError` when there is no server, `ValueError` when it refuses the key.
        """
        try:
            response = self._client.get(f"{self.url}/models", timeout=min(self.timeout, _AT_ONCE))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ConnectionError(
                f"no server at {self.url} ({self._clean(str(error))}); start it, or set mllm.url"
            ) from None
        except httpx.HTTPError:
            return None
        if response.status_code in (401, 403):
            raise self._refusal(response, response.text)
        try:
            return [str(entry["id"]) for entry in response.json()["data"]]
        except (ValueError, KeyError, TypeError):
            return None

    def post(self, path: str, body: dict[str, Any], read: Callable[[Any], Answer], stop: threading.Event) -> Answer:
        """The answer to one request, as `read` makes it of the JSON; `read` raises `ValueError` on another form.

        Raises `ValueError` when the server refuses the request, `OSError` when it does not answer in all attempts,
        `Stopped` once `stop` is set.
        """
        for attempt in range(1, self.attempts + 1):
            try:
                with self.gate as window:
                    if stop.is_set():
                        raise Stopped
                    return self._post_once(path, body, read)
            except _Passing as failure:
                if failure.overload:
                    self.gate.overloaded(window)
                wait = self._wait(attempt, failure)
                if attempt == self.attempts or wait is None:
                    raise OSError(self._given_up(attempt, failure)) from None
                stop.wait(wait)
        raise AssertionError("unreachable: attempts is at least 1")

    def _post_once(self, path: str, body: dict[str, Any], read: Callable[[Any], Answer]) -> Answer:
        deadline = time.monotonic() + self.timeout
        try:
            with self._client.stream("POST", f"{self.url}{path}", json=body) as response:
                # httpx bounds each wait only: an answer that trickles in would be waited for without end.
                received = []
                for part in response.iter_bytes():
                    received.append(part)
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("too slow")
            text = b"".join(received).decode("utf-8", "replace")
        except httpx.TimeoutException:
            raise _Passing(f"no answer within timeout={self.timeout:g} s", overload=True) from None
        except httpx.HTTPError as error:
            raise _Passing(self._clean(f"{type(error).__name__}: {error}")) from None
        if response.status_code in _MAY_PASS or response.status_code >= 500:
            asked = _seconds_asked_for(response.headers.get("Retry-After"))
            overload = response.status_code in _OVERLOAD
            raise _Passing(f"status {response.status_code}: {self._words(text)}", asked, overload)
        if response.status_code != 200:
            raise self._refusal(response, text)
        try:
            return read(json.loads(text))
        except ValueError as error:
            raise _Passing(f"{error}: {self._clean(text)!r}") from None

    def _wait(self, attempt: int, failure: _Passing) -> float | None:
        """Seconds to the next attempt; None when the server asks for more than `longest_wait`."""
        wait = min(self.backoff * 2 ** (attempt - 1), self.longest_wait) * self._random.uniform(0.5, 1.0)
        if failure.wait is None:
            return wait
        return max(wait, failure.wait) if failure.wait <= self.longest_wait else None

    def _given_up(self, attempt: int, failure: _Passing) -> str:
        reason = f"{self.url}: gave up after {attempt} of {self.attempts} attempts ({failure})"
        if failure.wait is not None and failure.wait > self.longest_wait:
            reason += f"; it asks to wait {failure.wait:.0f} s, longest_wait is {self.longest_wait:g}"
        return f"{reason}; nothing that was finished is lost: go on with resume=true once it answers"

    def _words(self, text: str) -> str:
        """What the server says of an error: its message where it has one, else its text."""
        try:
            error = json.loads(text)
            error = error.get("error", error)
            message = error if isinstance(error, str) else error["message"]
        except (ValueError, KeyError, TypeError, AttributeError):
            message = text
        return self._clean(str(message))

    def _refusal(self, response: httpx.Response, text: str) -> ValueError:
        status, remedy = response.status_code, ""
        if status in (401, 403):
            variable = self.api_key_variable or "(none: mllm.api_key_variable is empty)"
            remedy = f"; the key is read from the environment variable {variable}, {'set' if self._key else 'not set'}"
        elif 300 <= status < 400:
            remedy = f"; it points to {response.headers.get('Location', 'elsewhere')}: set mllm.url to that"
        kind = RefusedError if status in _OF_A_REQUEST else ValueError
        return kind(f"{response.url}: refused with status {status}: {self._words(text)}{remedy}")

"""A JSON array of objects, or JSON lines, read one object at a time in constant memory.

`json.JSONDecoder.raw_decode` reads objects out of a window that moves over the file. An object that the window cuts off
fails at its very end; then the window grows and the object is read again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"[ \t\n\r]*")
# A value that is cut off fails at most this far before the end: the longest literal and `\uXXXX` are shorter.
_TAIL = 16
# A string without closing quote would otherwise pull the whole file into memory.
_LONGEST_RECORD = 1 << 26


class _Window:
    """The part of the file under the decoder: `text`, the place `at` in it, and its offset `base` in the file."""

    def __init__(self, file: TextIO, path: str | Path, chunk: int) -> None:
        self.file, self.path, self.chunk = file, path, chunk
        self.text, self.at, self.base, self.index = "", 0, 0, 0

    def more(self) -> bool:
        """Drops what was read and appends; False at the end of the file.

        It at least doubles what is pending, so a long record is not scanned again for every chunk.
        """
        pending = self.text[self.at :]
        if len(pending) > _LONGEST_RECORD:
            self.fail(self.at, f"a record longer than {_LONGEST_RECORD} characters", "a closing quote may be missing")
        try:
            new = self.file.read(max(self.chunk, len(pending)))
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path}: not UTF-8 text ({error}); is this a predictions file?") from None
        if new:
            self.base, self.at, self.text = self.base + self.at, 0, pending + new
        return bool(new)

    def peek(self) -> str:
        """The next character that is not blank, left unread; empty at the end of the file."""
        while True:
            self.at = _BLANKS.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def fail(self, position: int, problem: str, remedy: str) -> NoReturn:
        """Raises the `ValueError` for `position` in the window."""
        found = self.text[position : position + 20]
        raise ValueError(
            f"{self.path}, record {self.index}, character {self.base + position}: {problem}, "
            f"found {repr(found) if found else 'the end of the file'}; {remedy}"
        )

    def expect(self, wanted: str) -> str:
        """Reads one of the characters `wanted`."""
        character = self.peek()
        if not character:
            self.fail(self.at, f"expected {' or '.join(wanted)}", "the file is cut off: write or fetch it again")
        if character not in wanted:
            self.fail(self.at, f"expected {' or '.join(wanted)}", "a predictions file is a JSON list of objects")
        self.at += 1
        return character

    def record(self) -> dict:
        """Reads the next object."""
        self.expect("{")
        self.at -= 1
        while True:
            try:
                value, self.at = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                self._grow_or_fail(error)
            except (RecursionError, ValueError) as error:
                self.fail(self.at, f"cannot be read ({error})", "this is no predictions file")
            else:
                self.index += 1
                return value

    def _grow_or_fail(self, error: json.JSONDecodeError) -> None:
        unterminated = error.msg.startswith("Unterminated string")
        place = self.base + error.pos
        if (unterminated or error.pos >= len(self.text) - _TAIL) and self.more():
            return
        position = place - self.base
        if unterminated or position >= len(self.text.rstrip()):
            self.fail(position, f"malformed JSON ({error.msg})", "the file is cut off: write or fetch it again")
        self.fail(position, f"malformed JSON ({error.msg})", "repair or write the file again")


def _objects(window: _Window) -> Iterator[dict]:
    first = window.peek()
    if first == "{":
        while window.peek():
            yield window.record()
        return
    window.expect("[")
    if window.peek() == "]":
        window.at += 1
    else:
        yield window.record()
        while window.expect(",]") == ",":
            yield window.record()
    if window.peek():
        window.fail(window.at, "text after the closing ]", "one file holds one list")


def read_records(path: str | Path, chunk: int = 1 << 20) -> Iterator[dict[str, Any]]:
    """The objects of a JSON array (in any layout) or of JSON lines, in order.

    chunk: characters read at a time. Raises `OSError` when the file cannot be opened, `ValueError` naming file, record
    index, character offset, what was found and what to do when it is not such a file.
    """
    # newline="": line ends are not translated, so that offsets are those of the file.
    with open(path, encoding="utf-8-sig", newline="") as file:
        yield from _objects(_Window(file, path, chunk))

"""Pickle files that hold plain containers only: dicts, lists, tuples, sets, numbers, texts. Anything else is refused.

A pickle is a program: it may name any class or function and call it. Files that only hold data name none, so refusing
every name loses nothing and runs nothing.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

# What the standard unpickler raises on damaged bytes, beside its own error.
_DAMAGE = (EOFError, ValueError, KeyError, IndexError, AttributeError, TypeError, OverflowError, MemoryError)


class _NamesSomething(pickle.UnpicklingError):
    pass


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise _NamesSomething(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _NamesSomething("an object outside the file")


def read_plain_pickle(path: str | Path) -> Any:
    """The containers in a pickle file, texts of Python 2 included (read as UTF-8).

    Raises `ValueError` naming the file when it is missing, damaged, or names a class or function; none is ever called.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    with open(path, "rb") as file:
        try:
            return _PlainUnpickler(file, encoding="utf-8", errors="replace").load()
        except _NamesSomething as error:
            raise ValueError(
                f"{path}: refused, since it names {error}: a data file holds plain containers only, and one that names "
                "more may run code; fetch it from its publisher again"
            ) from None
        except (pickle.UnpicklingError, *_DAMAGE, RecursionError) as error:
            raise ValueError(f"{path}: not a whole pickle ({error}); fetch the file again") from None

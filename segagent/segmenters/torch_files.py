"""What is wrong with a `.pth` file, in words that say what to do."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

# What torch's weights-only reader raises for files that are cut off, damaged, or of something else.
UNREADABLE = (RuntimeError, UnpicklingError, EOFError, OSError, ValueError, KeyError, IndexError)


def not_readable(path: Path, error: Exception) -> str:
    """A sentence about a file that torch could not read. Raises the error again where the file cannot be opened."""
    with open(path, "rb"):
        pass
    reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
    return f"{path}: not a file of tensors that can be read, or cut off on its way ({reason}); fetch it again"

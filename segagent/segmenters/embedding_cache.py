"""Image embeddings that are computed once: kept in memory by bytes, and on disk for later runs and other processes.

In: images and a function that embeds them. Out: their embeddings, tuples of tensors, and counts of where each came
from. A key is the hash of the pixels; entries on disk lie under the hash of whatever made them (weights, architecture).
On disk numbers are fp16. So that a run from the disk equals the one that filled it bit for bit, a cache with a folder
rounds every embedding to fp16 before it hands it out; one without a folder rounds nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

Embedding = tuple[Tensor, ...]

_LOG = logging.getLogger(__name__)
_FORMAT = "segagent embedding 1"  # counts up whenever our own code begins to make other embeddings of equal weights
# Names that nothing else has: making room must never delete another file of a folder that was given by mistake.
_ENDING, _PARTIAL = ".embedding", ".embedding-partial"
_ABANDONED_SECONDS = 3600  # a file that has been half written for so long has no writer any more


@dataclass
class CacheCounts:
    """Where embeddings came from. embed_images: asked for; the others add up to it, but for damaged ones, which are
    entries found unreadable on disk (and computed again)."""

    embed_images: int = 0
    embed_memory_hits: int = 0
    embed_disk_hits: int = 0
    embed_computed: int = 0
    embed_damaged: int = 0


def pixel_key(image: np.ndarray) -> str:
    """Hash of an image's size and pixels, 32 hexadecimal digits."""
    digest = hashlib.sha256(repr((image.shape, str(image.dtype))).encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()[:32]


def weights_key(network: nn.Module, *facts: str) -> str:
    """Hash of a network's tensors and of `facts`, text that says what else shapes an embedding; 32 digits."""
    digest = hashlib.sha256("\n".join([_FORMAT, *facts]).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


class EmbeddingCache:
    """memory_bytes: of embeddings kept in memory, least recently used out first; 0: none. folder: of the disk cache,
    None: none. folder_bytes: what all entries under it may take, of whichever weights; least recently used out first.
    maker: gives the hash of what makes the embeddings (`weights_key`), asked for once, when the disk is first used.
    device: where embeddings are kept and handed out.

    Several processes may share a folder. Raises `OSError` when it cannot be made.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        folder: str | Path | None,
        folder_bytes: int,
        maker: Callable[[], str],
        device: torch.device,
    ) -> None:
        if memory_bytes < 0 or folder_bytes < 0:
            raise ValueError(f"memory_bytes={memory_bytes}, cache_bytes={folder_bytes}: at least 0")
        self.counts = CacheCounts()
        self.memory_bytes, self.folder_bytes = memory_bytes, folder_bytes
        self.folder = None if folder is None else Path(folder)
        self._maker, self._home, self._device = maker, None, device
        self._kept: OrderedDict[str, Embedding] = OrderedDict()
        self._kept_bytes = 0
        self._unswept = None  # bytes written since the folder was last measured; None: never measured
        self._warned = False
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def embed(
        self, images: Sequence[np.ndarray], compute: Callable[[Sequence[np.ndarray]], Iterator[Embedding]]
    ) -> list[Embedding]:
        """One embedding per image, in order. compute: embeds the images that are not known, yielding one by one."""
        keys = [pixel_key(image) for image in images]
        found: dict[str, Embedding] = {}
        missing: dict[str, np.ndarray] = {}
        for key, image in zip(keys, images, strict=True):
            self.counts.embed_images += 1
            if key in found or key in missing:
                self.counts.embed_memory_hits += 1
                continue
            known = self._recall(key)
            if known is None:
                missing[key] = image
            else:
                found[key] = known
        for key, embedding in zip(missing, compute(list(missing.values())) if missing else (), strict=True):
            self.counts.embed_computed += 1
            found[key] = self._store(key, embedding)
        return [found[key] for key in keys]

    def statistics(self) -> dict[str, int]:
        return asdict(self.counts)

    def _recall(self, key: str) -> Embedding | None:
        if key in self._kept:
            self._kept.move_to_end(key)
            self.counts.embed_memory_hits += 1
            return self._kept[key]
        known = None if self.folder is None else self._read(key)
        if known is not None:
            self.counts.embed_disk_hits += 1
            self._keep(key, known)
        return known

    def _store(self, key: str, embedding: Embedding) -> Embedding:
        if self.folder is not None:
            embedding = tuple(part.half() for part in embedding)
            self._write(key, embedding)
        self._keep(key, embedding)
        return embedding

    # --- memory ---------------------------------------------------------------------------------------------------

    def _keep(self, key: str, embedding: Embedding) -> None:
        size = sum(part.nbytes for part in embedding)
        if size > self.memory_bytes:
            return
        self._kept[key] = embedding
        self._kept_bytes += size
        while self._kept_bytes > self.memory_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= sum(part.nbytes for part in oldest)

    # --- disk -----------------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        if self._home is None:
            self._home = self.folder / self._maker()
        return self._home / (key + _ENDING)

    def _read(self, key: str) -> Embedding | None:
        """The entry, marked as used now; None when there is none or it is damaged (cut off, altered)."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                parts = tuple(file.get_tensor(str(number)) for number in range(len(file.keys())))
                intact = (file.metadata() or {}).get("sha256") == _digest(parts)
            if intact:
                with contextlib.suppress(OSError):  # another user's file, a disk to read from only
                    os.utime(path)
                return tuple(part.to(self._device) for part in parts)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            intact = False
        self.counts.embed_damaged += 1
        return None

    def _write(self, key: str, embedding: Embedding) -> None:
        """Writes the whole entry or nothing: into a file of its own, which then takes the entry's name."""
        path = self._path(key)
        parts = tuple(part.cpu().contiguous() for part in embedding)
        content = save({str(number): part for number, part in enumerate(parts)}, {"sha256": _digest(parts)})
        partial = path.with_name(f"{key}.{uuid.uuid4().hex}{_PARTIAL}")
        try:
            path.parent.mkdir(exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, path)
            self._make_room(len(content))
        except OSError as error:  # a full disk must not end a run that can go on without it
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            if not self._warned:
                _LOG.warning("embedding cache %s: %s; going on without writing to it", self.folder, error)
            self._warned = True

    def _make_room(self, written: int) -> None:
        """Measures the folder at the first write and after each sixteenth of its bound; deletes down to the bound."""
        if self._unswept is not None and self._unswept + written < self.folder_bytes / 16:
            self._unswept += written
            return
        self._unswept = 0
        entries = []
        for path in self.folder.glob("*/*"):
            try:
                facts = path.stat()
            except FileNotFoundError:  # another process made room
                continue
            if path.suffix == _ENDING:
                entries.append((facts.st_mtime, facts.st_size, path))
            elif path.suffix == _PARTIAL and time.time() - facts.st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)
        excess = sum(size for _, size, _ in entries) - self.folder_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                return
            path.unlink(missing_ok=True)
            excess -= size


def _digest(parts: Embedding) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
        digest.update(part.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()

"""Figures of a training run to wandb, beside the CSV files that are always there."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

log = logging.getLogger(__name__)

MODES = ("auto", "offline", "online", "disabled")


class Tracker:
    """A wandb run, for use in a `with`. A resumed training goes on with its run.

    mode: `auto` (online after `wandb login`, else offline), `offline` (files under `folder`/wandb; send them with
    `wandb sync`), `online` or `disabled`. project: its name there. folder: of the training run. settings: shown with
    it. Raises `ValueError` for another mode, and on entry when wandb cannot begin.
    """

    def __init__(self, *, mode: str, project: str, folder: str | Path, settings: Mapping[str, Any]) -> None:
        if mode not in MODES:
            raise ValueError(f"wandb.mode={mode!r}: choose {', '.join(MODES)}")
        self.mode, self.project, self.folder, self.settings = mode, project, Path(folder), dict(settings)
        self._run, self._kept = None, self.folder / "wandb_run_id.txt"

    def __enter__(self) -> Self:
        if self.mode == "disabled":
            return self
        import wandb  # takes a second, and starts a process

        mode = self._reachable(wandb) if self.mode == "auto" else self.mode
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                mode=mode,
                project=self.project,
                dir=self.folder,
                name=self.folder.name,
                id=self._identity(),
                resume="allow",
                config=self.settings,
                settings=wandb.Settings(silent=True, console="off"),
            )
        except wandb.errors.Error as error:
            raise ValueError(f"wandb.mode={self.mode}: {error}; say wandb.mode=offline") from None
        return self

    @staticmethod
    def _reachable(wandb: ModuleType) -> str:
        """`online` where there is a key and a server that takes it, else `offline`: a cluster's node may have a key and
        no way out."""
        try:
            return "online" if wandb.login(prompt=False) else "offline"
        except wandb.errors.Error as error:
            log.warning("wandb: offline, send the figures later with `wandb sync` (%s)", error)
            return "offline"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if kind is None else 1)

    def forget(self) -> None:
        """A training that begins anew gets a run of its own: to be called before the `with`."""
        self._kept.unlink(missing_ok=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Figures of a step, by name."""
        if self._run is not None:
            self._run.log(dict(values), step=step)

    def _identity(self) -> str:
        """The run's id: the one kept in the folder, else a new one, which is then kept."""
        if not self._kept.exists():
            self._kept.write_text(secrets.token_hex(4), encoding="utf-8")
        return self._kept.read_text(encoding="utf-8").strip()

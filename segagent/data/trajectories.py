"""Trajectory <-> our JSONL (one trajectory a line; append, stream, resume).

A line holds everything in the repository's units (types.py), masks as COCO RLE. It holds no clock and no host, so equal
runs write equal bytes; `seconds` is there only when the run was asked to record it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from segagent.masks import normalize_rle
from segagent.types import Action, Box, Click, EndReason, InitKind, Step, Trajectory

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None


def settings_file(lines: Path) -> Path:
    """Where the settings of the run stand that made NAME.jsonl, or NAME.trajectories.jsonl."""
    return lines.with_name(lines.name.removesuffix(".jsonl").removesuffix(".trajectories") + ".config.yaml")


def _click_to_json(click: Click) -> dict:
    return {"x": click.x, "y": click.y, "is_positive": click.is_positive}


def _box_to_json(box: Box | None) -> list[int] | None:
    return None if box is None else [box.x0, box.y0, box.x1, box.y1]


def _step_to_json(step: Step) -> dict:
    action = step.action
    return {
        "click": None if action.click is None else _click_to_json(action.click),
        "box": _box_to_json(action.box),
        "mask": step.mask,
        "iou_before": step.iou_before,
        "iou_after": step.iou_after,
        "kept": step.kept,
        "source": action.source,
        "text": action.text,
        "predicted_iou": action.predicted_iou,
        "log_prob": action.log_prob,
    }


def trajectory_to_json(trajectory: Trajectory) -> dict:
    """The dict of one JSONL line; every value is plain JSON."""
    record = {
        "sample_id": trajectory.sample_id,
        "image_name": trajectory.image_name,
        "height": trajectory.height,
        "width": trajectory.width,
        "text": trajectory.text,
        "object_id": trajectory.object_id,
        "category": trajectory.category,
        "target": trajectory.target,
        "void": trajectory.void,
        "init": {
            "kind": trajectory.init.value,
            "mask": trajectory.init_mask,
            "box": _box_to_json(trajectory.init_box),
            "clicks": [_click_to_json(click) for click in trajectory.init_clicks],
            "iou": trajectory.init_iou,
        },
        "steps": [_step_to_json(step) for step in trajectory.steps],
        "end_reason": None if trajectory.end_reason is None else trajectory.end_reason.value,
        "end_text": trajectory.end_text,
    }
    if trajectory.seconds is not None:
        record["seconds"] = trajectory.seconds
    if trajectory.extras:
        record["extras"] = trajectory.extras
    return record


def _click_from_json(record: dict, height: int, width: int) -> Click:
    click = Click(int(record["x"]), int(record["y"]), bool(record["is_positive"]))
    if not (0 <= click.x < width and 0 <= click.y < height):
        raise ValueError(f"{click} lies outside its {width}x{height} image")
    return click


def _box_from_json(value: list | None) -> Box | None:
    return None if value is None else Box(*(int(side) for side in value))


def _rle_from_json(rle: dict | None, key: str, height: int, width: int) -> dict | None:
    if rle is None:
        return None
    rle = normalize_rle(rle, f"key '{key}'")
    if rle["size"] != [height, width]:
        raise ValueError(f"key '{key}': mask size {rle['size']} but the record says {[height, width]}")
    return rle


def _step_from_json(record: dict, index: int, height: int, width: int) -> Step:
    action = Action(
        click=None if record["click"] is None else _click_from_json(record["click"], height, width),
        box=_box_from_json(record.get("box")),
        text=record.get("text"),
        predicted_iou=record.get("predicted_iou"),
        log_prob=record.get("log_prob"),
        source=record.get("source", "policy"),
    )
    mask = _rle_from_json(record["mask"], f"steps[{index}].mask", height, width)
    return Step(action, mask, record.get("iou_before"), record.get("iou_after"), bool(record.get("kept", True)))


def trajectory_from_json(record: Any) -> Trajectory:
    """The way back from `trajectory_to_json`. Raises `ValueError` that names the key when something is off."""
    try:
        for key, kind, called in (("sample_id", str, "text"), ("text", str, "text"), ("extras", dict, "object")):
            if key in record and not isinstance(record[key], kind):
                raise ValueError(f"key {key!r}: {record[key]!r} is no {called}")
        height, width, init = int(record["height"]), int(record["width"]), record["init"]
        return Trajectory(
            sample_id=record["sample_id"],
            image_name=record["image_name"],
            height=height,
            width=width,
            text=record["text"],
            target=_rle_from_json(record["target"], "target", height, width),
            void=_rle_from_json(record.get("void"), "void", height, width),
            init=InitKind(init["kind"]),
            init_mask=_rle_from_json(init["mask"], "init.mask", height, width),
            init_box=_box_from_json(init.get("box")),
            init_clicks=tuple(_click_from_json(click, height, width) for click in init.get("clicks", ())),
            init_iou=init.get("iou"),
            steps=tuple(_step_from_json(step, k, height, width) for k, step in enumerate(record["steps"])),
            end_reason=None if record["end_reason"] is None else EndReason(record["end_reason"]),
            end_text=record.get("end_text"),
            object_id=record.get("object_id"),
            category=record.get("category"),
            seconds=record.get("seconds"),
            extras=record.get("extras", {}),
        )
    except KeyError as error:
        raise ValueError(f"key {error} is missing: this is not a trajectory of ours") from None
    except TypeError as error:
        raise ValueError(f"not a trajectory of ours ({error})") from None


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """Streams a JSONL file. Raises `ValueError` naming file, line and reason at the first line that is not sound."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield trajectory_from_json(json.loads(line.decode()))
            except ValueError as error:
                hint = "" if line.endswith(b"\n") else " (the last line is cut off: resume=true repairs a killed run)"
                raise ValueError(f"{path}, line {number}: {error}{hint}") from None


def to_lines(trajectories: Iterable[Trajectory]) -> bytes:
    """As they stand in the file, UTF-8."""
    return "".join(
        json.dumps(trajectory_to_json(trajectory), ensure_ascii=False, separators=(",", ":")) + "\n"
        for trajectory in trajectories
    ).encode("utf-8", "backslashreplace")  # a lone surrogate of a served model's reply becomes its JSON escape


def aside(path: Path) -> Path:
    """A name that nobody else gives, since it is removed again."""
    return path.with_name(path.name + ".set-aside")


def set_aside(path: Path) -> None:
    """The file becomes `NAME.set-aside` until a writer begins it anew: a run that fails before that loses nothing.

    Raises `OSError` while another process writes to it.
    """
    with open(path, "ab") as file:
        lock(file, path)
        if fcntl is not None:
            os.replace(path, aside(path))
            return
    os.replace(path, aside(path))  # Windows renames no open file


def lock(file: BinaryIO, path: Path) -> None:
    """Until it is closed no other process gets it (`OSError`); on a file system without locks, none is held."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BlockingIOError(
            error.errno, f"{path}: another run is writing to it; wait until it ends, or choose another out="
        ) from None
    except OSError:
        pass


class TrajectoryWriter:
    """Appends trajectories to a JSONL file; each `write` leaves only whole lines behind, safe from a kill.

    resume: keep what an earlier run left. `done` then holds the sample ids already in the file, and a line that a kill
    cut off is removed (it is reported in `repaired`). overwrite: what the file holds goes. With neither of them it must
    be new, or empty.
    Raises `OSError` when the path cannot be written, `FileExistsError` when it holds something that may not go.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, None] = {}
        self.repaired = ""
        # Unbuffered: after a failed write nothing is left behind that closing the file would try to write again.
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by __exit__
        try:
            lock(self._file, self.path)
            if resume:
                self._recover()
            else:
                self._begin(overwrite)
            self._file.seek(0, os.SEEK_END)
        except BaseException:
            self._file.close()
            raise

    def _begin(self, overwrite: bool) -> None:
        # Asked under the lock: of two runs that begin at the same moment one may have ended before the other one opens.
        if self._file.seek(0, os.SEEK_END) and not overwrite:
            raise FileExistsError(f"{self.path}: another run has written it since this one began; choose another out=")
        self._file.truncate(0)
        aside(self.path).unlink(missing_ok=True)

    def _recover(self) -> None:
        sound = 0
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self.repaired = f"{self.path}: line {number} was cut off by a kill; that sample is done again"
                    break
                try:
                    sample_id = json.loads(line)["sample_id"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(f"{self.path}, line {number}: not a trajectory ({error}); cannot resume") from None
                if sample_id in self.done:
                    raise ValueError(f"{self.path}, line {number}: sample {sample_id!r} is there twice; cannot resume")
                self.done[sample_id] = None
                sound += len(line)
        if self.repaired:
            os.truncate(self.path, sound)

    def write(self, trajectories: Iterable[Trajectory]) -> None:
        """Appends and hands to the operating system. On a full disk the partial lines are taken back."""
        self.write_lines(to_lines(trajectories))

    def write_lines(self, lines: bytes) -> None:
        """The same of what `to_lines` made."""
        before = self._file.tell()
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            os.truncate(self.path, before)
            raise OSError(
                error.errno,
                f"{error.strerror} while writing {self.path}; what it holds is whole: "
                "make room and run the same command with resume=true",
            ) from None

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

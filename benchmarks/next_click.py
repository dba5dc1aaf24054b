"""How fast is the simulated annotator? `segagent.masks.next_click` beside two full-size exact distance transforms.

    python benchmarks/next_click.py [--size 1024] [--repeats 15] [--out FILE.json]

Prints, per case, the shortest time of each in milliseconds, their quotient, and whether both made the same click.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from segagent.masks import next_click
from segagent.types import Click


def plain_next_click(target: np.ndarray, mask: np.ndarray) -> Click | None:
    """The definition, nothing saved: both error maps padded, exactly transformed, first maximum of the deeper one."""
    depths = []
    for region in (target & ~mask, mask & ~target):
        padded = np.pad(region, 1).view(np.uint8)
        depths.append(cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1])
    is_positive = bool(depths[0].max() > depths[1].max())
    depth = depths[0 if is_positive else 1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return Click(int(column), int(row), is_positive) if depth[row, column] else None


def disc(size: int, row: float, column: float, radius: float) -> np.ndarray:
    rows, columns = np.ogrid[:size, :size]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def blob(size: int, scale: float, share: float, seed: int) -> np.ndarray:
    """An irregular region: the highest `share` of smoothed noise, features about `scale` pixels wide."""
    noise = np.random.default_rng(seed).standard_normal((size, size)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), scale)
    return smooth > np.quantile(smooth, 1 - share)


def wobbly(size: int, radius: float, seed: int) -> np.ndarray:
    """One object: a disc whose radius changes with the angle."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] - size / 2
    angle = np.arctan2(rows, columns)
    waves = sum(random.normal(0, 0.25 / k) * np.cos(k * angle + random.uniform(0, 6.3)) for k in range(1, 9))
    return np.hypot(rows, columns) <= radius * (1 + waves)


def lines(size: int, spacing: int, width: int) -> np.ndarray:
    """A net of horizontal and slanted threads."""
    picture = np.zeros((size, size), np.uint8)
    for start in range(-size, size, spacing):
        cv2.line(picture, (0, start), (size, start + size // 3), 1, width)
        cv2.line(picture, (start, 0), (start + size // 2, size), 1, width)
    return picture.astype(bool)


def spokes(size: int, number: int, width: int) -> np.ndarray:
    picture = np.zeros((size, size), np.uint8)
    middle = size // 2
    for angle in np.linspace(0, 2 * np.pi, number, endpoint=False):
        end = (int(middle + 0.45 * size * np.cos(angle)), int(middle + 0.45 * size * np.sin(angle)))
        cv2.line(picture, (middle, middle), end, 1, width)
    cv2.circle(picture, (middle, middle), int(0.45 * size), 1, width)
    return picture.astype(bool)


def cases(size: int) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, target, mask), `[size, size]` bool; lengths are shares of `size`, so 1024 is the reference."""
    nothing, unit = np.zeros((size, size), bool), size / 1024
    big = wobbly(size, 300 * unit, 1)
    random = np.random.default_rng(0)
    yield "first click, disc of radius 300", disc(size, 500 * unit, 520 * unit, 300 * unit), nothing
    yield "first click, irregular object", big, nothing
    yield "first click, irregular object 2", wobbly(size, 340 * unit, 5), nothing
    square = nothing.copy()
    square[int(200 * unit) : int(700 * unit), int(60 * unit) : int(960 * unit)] = True
    yield "first click, rectangle 900x500", square, nothing
    yield "good mask, band 3 px too small", big, cv2.erode(big.view(np.uint8), np.ones((7, 7), np.uint8)).view(bool)
    shifted = np.roll(big, (5, 4), (0, 1))
    yield "good mask, moved by 5 px", big, shifted
    yield "good mask, rough edge", big, big ^ (blob(size, 3 * unit, 0.5, 2) & (cv2.blur(big * 1.0, (15, 15)) % 1 > 0))
    errors = disc(size, 420 * unit, 560 * unit, 45 * unit) | disc(size, 640 * unit, 470 * unit, 30 * unit)
    yield "a few medium errors", big, (big & ~errors) | disc(size, 200 * unit, 830 * unit, 38 * unit)
    yield "medium irregular errors", big, big ^ blob(size, 25 * unit, 0.06, 3)
    yield "net, threads of 7 px", lines(size, int(60 * unit), 7), nothing
    yield "net, threads of 15 px", lines(size, int(110 * unit), 15), nothing
    yield "net, threads of 36 px", lines(size, int(150 * unit), 36), nothing
    yield "wheel of 24 spokes of 9 px", spokes(size, 24, 9), nothing
    yield "wheel half done", spokes(size, 24, 9), spokes(size, 24, 5) & disc(size, 0, 0, 700 * unit)
    yield "noise, 5% of all pixels", big, big ^ (random.random((size, size)) < 0.05)
    yield "noise, 40% of all pixels", big, big ^ (random.random((size, size)) < 0.4)
    yield "blobs everywhere, wide", blob(size, 60 * unit, 0.5, 4), blob(size, 60 * unit, 0.5, 5)
    yield "blobs everywhere, narrow", blob(size, 20 * unit, 0.5, 6), blob(size, 20 * unit, 0.5, 7)
    yield "blobs everywhere, fine", blob(size, 6 * unit, 0.5, 8), blob(size, 6 * unit, 0.5, 9)
    small = wobbly(size, 75 * unit, 3)
    yield "small object, first click", small, nothing
    yield "small object, refined", small, np.roll(small, (9, -6), (0, 1))


def timed(functions: Sequence[Callable[[], object]], repeats: int) -> np.ndarray:
    """`[functions, repeats]` milliseconds; in turns of five, so that a busy neighbour disturbs all alike."""
    times = np.empty((len(functions), repeats))
    for turn in range(0, repeats, 5):
        for row, function in enumerate(functions):
            for column in range(turn, min(turn + 5, repeats)):
                start = time.perf_counter()
                function()
                times[row, column] = (time.perf_counter() - start) * 1000
    return times


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{names[0]} ({len(names)} cores)" if names else platform.processor()


def measure(size: int, repeats: int) -> list[dict]:
    rows = []
    for name, target, mask in cases(size):
        equal = next_click(target, mask) == plain_next_click(target, mask)
        times = timed((lambda: plain_next_click(target, mask), lambda: next_click(target, mask)), repeats)  # noqa: B023
        (plain, ours), (plain_median, ours_median) = times.min(1).tolist(), np.median(times, 1).tolist()
        row = {"case": name, "plain_ms": plain, "ours_ms": ours, "ratio": plain / ours, "equal": equal}
        rows.append({**row, "plain_median_ms": plain_median, "ours_median_ms": ours_median})
        ratios = f"{plain / ours:7.1f}x {plain_median / ours_median:7.1f}x"
        print(f"{name:34s} {plain:8.2f} {ours:8.3f} {ratios}  {'same click' if equal else 'DIFFERENT'}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="side of the square pictures, pixels")
    parser.add_argument("--repeats", type=int, default=25, help="runs of each version")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    cv2.ipp.setUseIPP(False)
    print("milliseconds, shortest of all runs; ratio of the shortest and of the medians")
    print(f"{'case':34s} {'plain':>8s} {'ours':>8s} {'ratio':>8s} {'median':>8s}")
    rows = measure(arguments.size, arguments.repeats)
    mean = float(np.exp(np.mean(np.log([row["ratio"] for row in rows]))))
    slowest = min(row["ratio"] for row in rows)
    machine = f"{processor()}, Python {platform.python_version()}, numpy {np.__version__}, OpenCV {cv2.__version__}"
    print(
        f"geometric mean {mean:.1f}x, least {slowest:.1f}x, all equal: {all(row['equal'] for row in rows)}; {machine}"
    )
    if arguments.out:
        result = {"size": arguments.size, "machine": machine, "geometric_mean": mean, "cases": rows}
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

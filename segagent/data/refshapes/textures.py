"""Integer noise, backgrounds, and the surfaces of things.

Lattice noise is a hash of the lattice position in uint32 arithmetic, which wraps the same way everywhere, and is
interpolated with integer weights. Lengths are in 1/1024 of the picture's side, so a picture looks alike at any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from segagent.data.refshapes.outline import cosine, sine
from segagent.data.refshapes.randomness import Stream
from segagent.data.refshapes.raster import Ink, Placement

Color = tuple[int, int, int]
_SINE_WAVE = np.array([sine(angle) for angle in range(1024)], np.int32)

# Colors of walls, wood, sand, grass, sky, cloth: quieter than those of things.
_GROUND: tuple[Color, ...] = (
    (176, 160, 138), (142, 120, 96), (196, 186, 168), (110, 122, 92), (138, 150, 112), (92, 106, 118),
    (150, 168, 182), (186, 202, 210), (120, 112, 128), (168, 150, 160), (206, 190, 150), (84, 78, 74),
    (128, 136, 140), (164, 132, 108), (96, 124, 120), (212, 206, 196), (70, 84, 96), (178, 172, 188),
)  # fmt: skip


def mix(first: Color, second: Color, share: int) -> Color:
    """The color `share / 1024` of the way from the first to the second."""
    return tuple(a + ((b - a) * share >> 10) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def shifted(color: Color, stream: Stream, brightness: int, hue: int) -> Color:
    """The color with all channels moved by one number up to `brightness`, and each by its own up to `hue`."""
    common = stream.between(-brightness, brightness)
    return tuple(min(255, max(0, part + common + stream.between(-hue, hue))) for part in color)  # type: ignore


def _hash(rows: np.ndarray, columns: np.ndarray, seed: int) -> np.ndarray:
    """`[h, 1]` and `[1, w]` uint32 -> `[h, w]` uint32, every bit depending on all three."""
    value = rows * np.uint32(0x9E3779B1) ^ columns * np.uint32(0x85EBCA77) ^ np.uint32(seed & 0xFFFFFFFF)
    value ^= value >> np.uint32(15)
    value *= np.uint32(0x2C1B3C6D)
    value ^= value >> np.uint32(12)
    value *= np.uint32(0x297A2D39)
    value ^= value >> np.uint32(15)
    return value


def lattice(height: int, width: int, seed: int) -> np.ndarray:
    """Independent numbers in `0..1023`, `[height, width]` int32."""
    rows = np.arange(height, dtype=np.uint32)[:, None]
    columns = np.arange(width, dtype=np.uint32)[None, :]
    return (_hash(rows, columns, seed) >> np.uint32(22)).astype(np.int32)


def _steps(size: int, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of `size` pixels, its lattice cell and how far (0..256, eased at both ends) it lies in it."""
    position = (np.arange(size, dtype=np.int32) * 1024 + 512) // size
    index = position // cell
    part = (position - index * cell) * 256 // cell
    return index, (part * part * (768 - 2 * part)) >> 16


def noise(size: int, cell_x: int, cell_y: int, seed: int) -> np.ndarray:
    """Smooth value noise `[size, size]` int32 in `0..1023` with bumps of `cell_x` by `cell_y`."""
    column, part_x = _steps(size, cell_x)
    row, part_y = _steps(size, cell_y)
    grid = lattice(int(row[-1]) + 2, int(column[-1]) + 2, seed)
    lines = (grid[row] * (256 - part_y)[:, None] + grid[row + 1] * part_y[:, None]) >> 8
    return (lines[:, column] * (256 - part_x) + lines[:, column + 1] * part_x) >> 8


def octaves(size: int, cell: int, count: int, stream: Stream) -> np.ndarray:
    """Value noise of halving bump size and strength, spread over `0..1023`, `[size, size]` int32."""
    total = np.zeros((size, size), np.int32)
    for level in range(count):
        total += (noise(size, max(4, cell >> level), max(4, cell >> level), stream.word()) - 512) >> level
    return np.clip(512 + total * 3 // 4, 0, 1023)


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centers x `[1, size]` and y `[size, 1]`, int32 in `0..1023`."""
    position = (np.arange(size, dtype=np.int32) * 1024 + 512) // size
    return position[None, :], position[:, None]


def _along(size: int, angle: int) -> np.ndarray:
    """Distance along a direction, `[size, size]` int32 in 1/1024 of the side."""
    x, y = _axes(size)
    return (x * cosine(angle) + y * sine(angle)) >> 14


def _clouds(size: int, stream: Stream) -> np.ndarray:
    return octaves(size, stream.between(160, 420), 4, stream)


def _gradient(size: int, stream: Stream) -> np.ndarray:
    along = _along(size, stream.below(1024))
    low, high = int(along.min()), int(along.max())
    return (along - low) * 900 // max(1, high - low) + (octaves(size, 60, 2, stream) >> 3)


def _stripes(size: int, stream: Stream) -> np.ndarray:
    period, wobble = stream.between(50, 150), octaves(size, 300, 2, stream) >> 5
    wave = _SINE_WAVE[((_along(size, stream.below(1024)) + wobble) * 1024 // period) & 1023]
    return np.clip(512 + (wave >> 3), 0, 1023)


def _checks(size: int, stream: Stream) -> np.ndarray:
    cell, angle = stream.between(50, 120), stream.choice((0, 0, 128, stream.below(256)))
    across = (_along(size, angle) // cell + _along(size, angle + 256) // cell) & 1
    return across * 700 + (octaves(size, 80, 2, stream) >> 2)


def _bricks(size: int, stream: Stream) -> np.ndarray:
    wide, tall, gap = stream.between(110, 190), stream.between(48, 80), stream.between(6, 10)
    x, y = _axes(size)
    row = y // tall
    shifted_x = x + (row & 1) * (wide // 2)
    tint = _hash(row.astype(np.uint32), (shifted_x // wide).astype(np.uint32), stream.word())
    value = 150 + (tint >> np.uint32(23)).astype(np.int32) + (octaves(size, 40, 2, stream) >> 2)
    return np.where((y % tall < gap) | (shifted_x % wide < gap), 1023, np.minimum(value, 900))


def _speckle(size: int, stream: Stream) -> np.ndarray:
    fine = octaves(size, stream.between(14, 30), 2, stream)
    return np.where(fine > 640, 1000, np.where(fine < 370, 30, 460)) + (octaves(size, 260, 2, stream) >> 4)


def _wood(size: int, stream: Stream) -> np.ndarray:
    angle = stream.choice((0, 256))
    grain = noise(size, *((700, 90) if angle else (90, 700)), stream.word())
    fibre = noise(size, *((200, 8) if angle else (8, 200)), stream.word())
    lines = _SINE_WAVE[(_along(size, angle) * stream.between(2, 5) + grain * stream.between(2, 4)) & 1023]
    return np.clip(420 + (lines >> 5) + (fibre >> 1) - 100, 0, 1023)


def _blobs(size: int, stream: Stream) -> np.ndarray:
    low = octaves(size, stream.between(150, 320), 2, stream)
    return np.clip((low - 380) * 8, 0, 500) + np.clip((low - 620) * 8, 0, 500)


def _grass(size: int, stream: Stream) -> np.ndarray:
    blades = noise(size, 10, 70, stream.word()) + noise(size, 16, 110, stream.word())
    return (blades >> 1) * 3 // 4 + (octaves(size, 250, 2, stream) >> 2)


def _weave(size: int, stream: Stream) -> np.ndarray:
    period = stream.between(24, 44)
    x, y = _axes(size)
    waves = _SINE_WAVE[(x * 1024 // period) & 1023] + _SINE_WAVE[(y * 1024 // period) & 1023]
    return np.clip(512 + (waves >> 6) + ((octaves(size, 200, 3, stream) - 512) >> 1), 0, 1023)


BACKGROUNDS: tuple[Callable[[int, Stream], np.ndarray], ...] = (
    _clouds, _gradient, _stripes, _checks, _bricks, _speckle, _wood, _blobs, _grass, _weave,
)  # fmt: skip


def ground_colors(stream: Stream, decoys: Sequence[Color]) -> tuple[Color, Color, Color]:
    """Three tones of a background; now and then one leans towards the color of a thing in the picture."""
    first = shifted(stream.choice(_GROUND), stream, 18, 8)
    step = stream.between(24, 60) * stream.choice((-1, 1))
    second = tuple(min(245, max(10, part + step)) for part in first)
    if stream.chance(35):
        second = mix(first, stream.choice(_GROUND), 700)
    if decoys and stream.chance(35):
        second = mix(second, stream.choice(decoys), stream.between(350, 650))  # type: ignore[arg-type]
    middle = shifted(mix(first, second, 512), stream, 14, 6)  # type: ignore[arg-type]
    return first, middle, second  # type: ignore[return-value]


def background(size: int, stream: Stream, decoys: Sequence[Color]) -> np.ndarray:
    """A textured picture `[size, size, 3]` int32 without things. decoys: colors that it may lean towards."""
    texture = stream.choice(BACKGROUNDS)(size, stream)
    first, middle, second = (np.array(color, np.int32) for color in ground_colors(stream, decoys))
    steps = np.arange(512, dtype=np.int32)[:, None]
    ramp = np.concatenate([first + ((middle - first) * steps >> 9), middle + ((second - middle) * steps >> 9)])
    # The light falls off to one side.
    light = 1024 + ((_along(size, stream.below(1024)) - 512) * stream.between(0, 200) >> 10)
    return np.clip(ramp[np.clip(texture, 0, 1023)] * light[:, :, None] >> 10, 0, 255)


def _local(ink: Ink, placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """Pixel centers of the ink's window along the thing's own axes, `[h, w]` int32 each, in 1/256 pixel."""
    height, width = ink.cover.shape
    x = (np.arange(ink.x, ink.x + width, dtype=np.int64) * 256 + 128 - placement.x)[None, :]
    y = (np.arange(ink.y, ink.y + height, dtype=np.int64) * 256 + 128 - placement.y)[:, None]
    cos, sin = cosine(placement.angle), sine(placement.angle)
    return ((x * cos + y * sin) >> 14).astype(np.int32), ((y * cos - x * sin) >> 14).astype(np.int32)


def _bands(along: np.ndarray, period: int, share: int) -> np.ndarray:
    """Soft-edged stripes, `0..1024`; `share / 1024` of each period is in the stripe."""
    distance = np.abs(along % period - period // 2)
    return np.clip((period * share // 2048 - distance) * 4 + 512, 0, 1024)


def pattern_cover(pattern: str, ink: Ink, placement: Placement, period: int) -> np.ndarray:
    """Where the second tone shows, `[h, w]` int32 in `0..1024`. period: length of the repeat in 1/256 pixel."""
    u, v = _local(ink, placement)
    if pattern == "striped":
        return _bands(u, period, 420)
    if pattern == "dotted":
        du, dv = u % period - period // 2, v % period - period // 2
        radius = period * 3 // 10
        return np.clip((radius * radius - du * du - dv * dv) // (radius // 2) * 4 + 512, 0, 1024)
    if pattern == "checked":
        across, down = _bands(u, period, 512), _bands(v, period, 512)
        return across + down - (across * down >> 9)
    raise ValueError(f"pattern {pattern!r} has no second tone: expected striped, dotted or checked")


def surface(color: Color, ink: Ink, placement: Placement, stream: Stream) -> np.ndarray:
    """One color under soft light with a little grain, `[h, w, 3]` int32 in `0..255`."""
    u, v = _local(ink, placement)
    reach = max(placement.half_width, placement.half_height)
    angle, strength = stream.below(1024), stream.between(30, 150)
    light = (u * (cosine(angle) * strength >> 14) + v * (sine(angle) * strength >> 14)) // reach
    height, width = ink.cover.shape
    grain = (lattice(height, width, stream.word()) - 512) * stream.between(0, 50) >> 9
    return np.clip(np.array(color, np.int32) * (1024 + light + grain)[:, :, None] >> 10, 0, 255)


def sensor_noise(picture: np.ndarray, strength: int, seed: int) -> np.ndarray:
    """The picture `[H, W, 3]` int32 with grain of up to about `strength` levels, as uint8."""
    height, width, _ = picture.shape
    bits = _hash(np.arange(height, dtype=np.uint32)[:, None], np.arange(width, dtype=np.uint32)[None, :], seed)
    for channel in range(3):
        # The sum of two 5-bit numbers is roughly bell-shaped; each channel has bits of its own.
        first, second = (bits >> np.uint32(10 * channel)) & 31, (bits >> np.uint32(10 * channel + 5)) & 31
        picture[:, :, channel] += ((first + second).astype(np.int32) - 31) * strength >> 5
    return np.clip(picture, 0, 255).astype(np.uint8)

"""Imports go one way: the root listing is the data flow, and every line may import only lines above it."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# One row per level; members of a level do not import each other.
LEVELS = [
    ["configuration", "devices", "types", "weights"],
    ["depth"],
    ["masks"],
    ["overlay"],
    ["dialogue"],
    ["segmenters", "data", "metrics", "mllm"],
    ["environment"],
    ["policies"],
    ["rollout"],
    ["report", "run", "training"],
    ["engines", "entry"],
    ["results"],
    ["annotation", "improvement"],
    ["tables"],
]
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}


def rooms_imported(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write segagent.room"
            modules = [node.module]
            if node.module == "segagent":
                modules = [f"segagent.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        rooms |= {module.split(".")[1] for module in modules if module.startswith("segagent.")}
    return rooms


def test_every_room_has_a_level_and_imports_only_what_lies_above():
    seen = set()
    for path in (ROOT / "segagent").rglob("*.py"):
        room = path.relative_to(ROOT / "segagent").parts[0].removesuffix(".py")
        if room == "__init__":
            assert not rooms_imported(path), "segagent/__init__.py imports nothing"
            continue
        assert room in LEVEL, f"segagent/{room} has no place in the order"
        seen.add(room)
        wrong = {other for other in rooms_imported(path) - {room} if LEVEL[other] >= LEVEL[room]}
        assert not wrong, f"{path.relative_to(ROOT)} (level of {room}) imports {wrong}"
    assert seen == set(LEVEL), f"rooms in the order that do not exist: {set(LEVEL) - seen}"


def test_nothing_imports_torchvision_or_edits_the_path():
    rooms = ("segagent", "scripts", "evaltools", "benchmarks", "tests")  # not what runs leave beside them
    for path in (*ROOT.glob("*.py"), *(path for room in rooms for path in (ROOT / room).glob("**/*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                assert not any(name.split(".")[0] == "torchvision" for name in named), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
                assert (node.value.attr, node.attr) not in {("path", "append"), ("path", "insert")}, path

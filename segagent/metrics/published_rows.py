"""Table 1 of the paper (arXiv 2503.08625), cIoU in percent on the RefCOCO family, for ours to stand beside."""

from __future__ import annotations

from segagent.metrics.table import percent

COLUMNS = (
    *("refcoco_val", "refcoco_testA", "refcoco_testB"),
    *("refcoco+_val", "refcoco+_testA", "refcoco+_testB"),
    *("refcocog_val", "refcocog_test"),
)
ROWS: dict[str, tuple[float, ...]] = {
    "LISA-7B (ft)": (74.9, 79.1, 72.3, 65.1, 70.8, 58.1, 67.9, 70.6),
    "Qwen box + SAM": (71.79, 75.20, 67.29, 65.39, 71.62, 59.12, 66.93, 68.94),
    "SegAgent-LLaVA + SAM": (79.20, 81.44, 75.72, 71.53, 76.68, 65.44, 74.80, 74.90),
    "SegAgent-Qwen + SAM": (78.01, 80.34, 74.98, 70.86, 75.52, 65.75, 74.49, 74.62),
    "SegAgent-LLaVA + SClick": (77.81, 80.03, 74.12, 66.73, 71.16, 59.89, 70.45, 71.25),
    "SegAgent-Qwen + SClick": (79.69, 81.35, 76.57, 72.49, 75.80, 66.89, 75.11, 75.20),
}


def format_table(ciou: dict[str, float | None], name: str = "this run") -> str:
    """Lines in the paper's layout, ours last. ciou: split -> cIoU in `[0, 1]`; a split that is missing is a dash."""
    heads = ("RC val", "testA", "testB", "RC+ val", "testA", "testB", "g val", "g test")
    lines = [f"{'cIoU':<24}" + "".join(f"{head:>8}" for head in heads)]
    lines += [f"{row:<24}" + "".join(f"{value:8.2f}" for value in values) for row, values in ROWS.items()]
    return "\n".join([*lines, f"{name:<24}" + "".join(f"{percent(ciou.get(split)):>8}" for split in COLUMNS)])

"""Metrics as a table for the terminal. IoUs in percent."""

from __future__ import annotations

from typing import Any


def percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:6.2f}"


def _mean(metrics: dict[str, Any], name: str, key: str) -> str:
    interval = ""
    if f"{key}_low" in metrics:
        interval = f"   95% interval {percent(metrics[key + '_low'])} .. {percent(metrics[key + '_high'])}"
    return f"{name:<14}{percent(metrics[key])}{interval}"


def _curve(values: list[float | None]) -> str:
    """The first values and the last one; a terminal has no room for twenty clicks."""
    shown = [percent(value) for value in values]
    return " ".join(shown if len(shown) <= 9 else [*shown[:8], "  ...", shown[-1]])


def _reward_model(metrics: dict[str, Any]) -> str:
    names = ("MAE", "MSE", "Pearson", "Spearman")
    values = (metrics[f"prm_{name.lower()}"] for name in names)
    shown = ("-" if value is None else f"{value:.2f}" for value in values)
    told = "  ".join(f"{name} {value}" for name, value in zip(names, shown, strict=True))
    return f"announced IoU {told}   (errors in percent points)"


def _first_click(metrics: dict[str, Any]) -> str:
    led = [(after, metrics[f"giou_first_{after}"]) for after in ("right", "wrong")]
    told = ", ".join(f"{percent(value).strip()} where it is {after}" for after, value in led if value is not None)
    return f"first click   {percent(metrics['first_click'])} right   (for its sign); mean IoU {told}"


def format_metrics(metrics: dict[str, Any]) -> str:
    """Lines of names and values of an honest protocol; metrics: the flat keys of metrics.json (docs/scoring.md)."""
    null = f", {metrics['n_null_target']} of them null" if metrics["n_null_target"] else ""
    noc = "  ".join(f"{level}: {metrics[f'noc{level}']:.2f}" for level in (80, 85, 90))
    lines = [
        f"samples       {metrics['n']}: {metrics['n_unparsable']} ended by an unparsable reply (counted), "
        f"{metrics['n_empty_target']} with an empty target{null}",
        *(_mean(metrics, name, name.lower()) for name in ("cIoU", "gIoU", "mIoU")),
        "P@            " + "  ".join(f"{level}: {percent(metrics[f'p{level}'])}" for level in (50, 60, 70, 80, 90)),
        f"NoC           {noc}  (limit {metrics['click_limit']})",
    ]
    if metrics.get("first_click") is not None:
        lines.append(_first_click(metrics))
    if metrics.get("boundary_iou") is not None:
        lines.append(f"boundary IoU  {percent(metrics['boundary_iou'])}")
    for name, key in (("cIoU by step", "ciou_by_step"), ("mIoU by step", "miou_by_step")):
        lines.append(f"{name:<14}{_curve(metrics[key])}   (after 0, 1, ... actions)")
    if "best_ciou_by_step" in metrics:
        curve = _curve(metrics["best_ciou_by_step"])
        lines.append(f"{'best so far':<14}{curve}   (cIoU of the best predicted mask until then)")
    if "prm_mae" in metrics:
        lines.append(_reward_model(metrics))
    return "\n".join(lines)

"""Sections -> one page, as Markdown (with PNG files beside it) and as a self-contained HTML file, light and dark."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from segagent.entry import write_text
from segagent.report.page import page, write_page
from segagent.tables.section import Plot, Section, Table


def write_pages(target: Path, *, title: str, facts: Sequence[str], sections: Sequence[Section], folder: Path) -> None:
    """Writes `target`.md, `target`.html and `target`_NAME.png. facts: lines that hold for all sections. folder: where
    the PNG of the sections are.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for plot in (plot for section in sections for plot in section.plots):
        shutil.copyfile(folder / f"{plot.name}.png", target.with_name(_picture(target, plot)))
    write_text(target.with_name(f"{target.name}.md"), markdown(title, facts, sections, target))
    write_page(target.with_name(f"{target.name}.html"), html(title, facts, sections))


def _picture(target: Path, plot: Plot) -> str:
    return f"{target.name}_{plot.name}.png"


def _about(section: Section) -> list[str]:
    """Notes, and what else must be known of the numbers."""
    lines = list(section.notes)
    if section.samples_skipped:
        lines.append(f"Samples that could not be loaded were left out of: {', '.join(section.samples_skipped)}.")
    if section.commands:
        commits = ", ".join(section.commits)
        lines.append(
            f"The runs took {section.seconds:.0f} s ({section.cpu_seconds:.0f} s of CPU), at commit {commits}."
        )
    return lines


# --- Markdown -----------------------------------------------------------------------------------------------------


def markdown(title: str, facts: Sequence[str], sections: Sequence[Section], target: Path) -> str:
    parts = [f"# {_plain(title)}", "\n".join(f"- {_plain(fact)}" for fact in facts)]
    for section in sections:
        parts += [f"## {_plain(section.title)}", f"*Claim:* {_plain(section.claim)}"]
        parts += ["\n".join(f"- {_plain(finding)}" for finding in section.findings)]
        parts += [_markdown_table(table) for table in section.tables]
        parts += [f"![{_plain(plot.caption)}]({quote(_picture(target, plot))})" for plot in section.plots]
        parts += [_plain(line) for line in _about(section)]
        if section.commands:
            commands = "\n".join(f"# {name}\n{command}" for name, command in section.commands)
            parts.append(f"<details><summary>commands</summary>\n\n```bash\n{commands}\n```\n\n</details>")
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(table: Table) -> str:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    lines = ["| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*([_plain(table.caption) + ":", ""] if table.caption else []), *lines])


def _plain(text: str) -> str:
    """Characters that Markdown would read otherwise."""
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


# --- HTML ---------------------------------------------------------------------------------------------------------


def html(title: str, facts: Sequence[str], sections: Sequence[Section]) -> str:
    head = f"<header><h1>{escape(title)}</h1>{''.join(f'<p>{escape(fact)}</p>' for fact in facts)}</header>"
    return page(title, head + "\n" + "\n".join(_html_section(section) for section in sections))


def _html_section(section: Section) -> str:
    findings = "".join(f"<li>{escape(finding)}</li>" for finding in section.findings)
    tables = "".join(_html_table(table) for table in section.tables)
    figures = "".join(
        f"<figure>{plot.svg}<figcaption>{escape(plot.caption)}</figcaption></figure>" for plot in section.plots
    )
    notes = "".join(f"<p class='meaning'>{escape(line)}</p>" for line in _about(section))
    commands = "\n".join(f"# {name}\n{command}" for name, command in section.commands)
    shown = f"<details><summary>commands</summary><pre>{escape(commands)}</pre></details>" if commands else ""
    return (
        f'<section id="{escape(section.name)}"><h2>{escape(section.title)}</h2><p><b>Claim</b> {escape(section.claim)}'
        f'</p><ul>{findings}</ul>{tables}<div class="plots">{figures}</div>{notes}{shown}</section>'
    )


def _kind(cells: Sequence[str]) -> str:
    """Attribute of a column: numbers, with their intervals, stand on the right and in one line."""
    return " class='number'" if all(re.match(r"[+-]?(\d|nan)|\N{EN DASH}|$", cell) for cell in cells) else ""


def _html_table(table: Table) -> str:
    _, *columns = zip(table.head, *table.rows, strict=True)
    kinds = ["", *(_kind(cells) for _, *cells in columns)]
    head = "".join(f"<th{kind}>{escape(cell)}</th>" for kind, cell in zip(kinds, table.head, strict=True))
    rows = "".join(
        f"<tr><th scope='row'>{escape(row[0])}</th>"
        + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return f'<div class="scroll"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'

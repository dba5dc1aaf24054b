"""The style sheet of the report, for light and dark screens, narrow ones and paper."""

CSS = """\
:root { --page: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #30363d; --card: #151b23; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem); max-width: 1500px;
  background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h2 small { font-size: .85rem; font-weight: normal; color: var(--soft); }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .2rem 0 .6rem; overflow-wrap: anywhere; }
header p, .legend, .origin, .meaning, figcaption { color: var(--soft); }
.origin { font-size: .85rem; margin-left: .6rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid var(--line); }
.counts td:nth-child(2), .counts td:nth-child(3), .number { text-align: right; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; }
.counts thead th:nth-child(2), .counts thead th:nth-child(3), thead .number { text-align: right; white-space: normal; }
caption { text-align: left; padding: .8rem 0 .3rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1.5rem; }
figure { margin: 0; }
.legend { margin-top: 2.2rem; }
.plot { width: 100%; height: auto; max-width: 640px; color: var(--ink); }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; margin-bottom: .9rem; }
.strip { display: flex; gap: .7rem; overflow-x: auto; align-items: flex-start; padding-bottom: .3rem; }
.strip figure { flex: none; }
.strip img { display: block; border-radius: 4px; }
.strip figcaption { font-size: .82rem; line-height: 1.4; padding-top: .25rem; overflow-wrap: anywhere; }
.strip figcaption b { color: var(--ink); font-weight: 600; }
.strip figcaption span, .strip figcaption q { display: block; }
q { font-family: ui-monospace, monospace; font-size: .92em; white-space: pre-wrap; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; overflow-x: auto; }
summary { cursor: pointer; }
.cards { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); }
.cards article { margin: 0; }
.cards img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
@media print { .strip { flex-wrap: wrap; } article { break-inside: avoid; } }
"""

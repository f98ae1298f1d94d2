"""The look of the HTML pages: on screens, phones and paper, light and dark."""

CSS = """
:root { color-scheme: light dark; --ground: #f6f6f4; --card: #ffffff; --ink: #1d1d1f; --soft: #65656b;
  --line: #dededa; --best: #dff0e6; --good: #00734f; --bad: #b3400a; --heat: 179, 64, 10; }
@media (prefers-color-scheme: dark) { :root { --ground: #19191b; --card: #232326; --ink: #ececee; --soft: #a2a2a9;
  --line: #3a3a3f; --best: #1d3d2e; --good: #5fd0a0; --bad: #ff9d6b; --heat: 255, 140, 80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; } .soft, figcaption, .note { color: var(--soft); font-size: .88rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .75rem; margin: 1.2rem 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .8rem .9rem; }
.card b { display: block; font-size: 1.65rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.card span { display: block; font-size: .82rem; color: var(--soft); }
.card .label { color: var(--ink); font-size: .88rem; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } tr:last-child > * { border-bottom: 0; } thead th { color: var(--soft); font-size: .82rem; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--card); }
td.best { background: var(--best); font-weight: 650; } .better { color: var(--good); } .worse { color: var(--bad); }
td small { display: block; color: var(--soft); font-size: .76rem; font-weight: 400; }
.figures { columns: 2 420px; column-gap: 1rem; }
figure { margin: 0 0 1rem; break-inside: avoid;
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem; }
figure h3 { margin: 0 0 .5rem; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption { margin-top: .5rem; }
details { margin-top: 2rem; } summary { cursor: pointer; font-weight: 600; margin-bottom: .6rem; }
.settings td { text-align: left; white-space: normal; overflow-wrap: anywhere; font-variant-numeric: normal; }
@media (max-width: 520px) { main { padding: 1rem .7rem 2rem; } th, td { padding: .34rem .5rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: .5rem; } .card b { font-size: 1.4rem; } figure { padding: .6rem; }
  th, td small { white-space: normal; } th:first-child { min-width: 5.5rem; } }
@media print { :root { color-scheme: light; --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb;
  --best: #e4f2ea; --good: #00734f; --bad: #b3400a; --heat: 179, 64, 10; }
  body { font-size: 10.5pt; } main { max-width: none; padding: 0; } .scroll { overflow: visible; }
  .card, tr { break-inside: avoid; } .figures { columns: 2; } h2, h3 { break-after: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; } }
"""

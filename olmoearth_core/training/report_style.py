"""The style of report.html: light or dark as the reader's screen is, and nothing loaded from anywhere."""

STYLE = """
:root { color-scheme: light dark; --text: #1c2530; --soft: #5d6b7a; --line: #dde3ea; --paper: #fff; --page: #f4f6f8;
  --good: #1a7f4b; --bad: #b3261e; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --text: #e6ebf0; --soft: #9fadbb; --line: #34404d; --paper: #1b232c;
  --page: #12181f; --good: #5cc98d; --bad: #ff8a80; --warn: #e5b454; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 0 0 .75rem; }
h3 { font-size: .95rem; margin: 1.1rem 0 .4rem; } h3:target { color: var(--good); }
p { margin: .35rem 0; } .soft { color: var(--soft); } .verdict { font-size: 1.15rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 1.1rem 1.25rem;
  margin-top: 1rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin-bottom: .9rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; } td.n, th.n { text-align: right; }
td.n { white-space: nowrap; } tr:last-child td { border-bottom: 0; }
.matrix table { width: auto; } .cell { display: inline-block; min-width: 4.5rem; padding: .15rem .5rem;
  border-radius: 4px; text-align: right; } .cell a { color: inherit; }
.good { color: var(--good); } .error { color: var(--bad); } .warning { color: var(--warn); }
.good, .error, .warning { font-weight: 600; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em;
  border: 1px solid #0003; } .ramp { display: inline-block; width: 9rem; height: .8em; border-radius: 2px; }
img { max-width: 100%; }
.gallery { display: flex; flex-wrap: wrap; gap: .9rem; } figure { margin: 0; max-width: 20rem; }
figure img { height: 6.2rem; image-rendering: pixelated; display: block; border: 1px solid var(--line); }
figcaption { font-size: .78rem; line-height: 1.35; color: var(--soft); } figcaption b { color: var(--text); }
"""

"""The style sheet of a report: light and dark, and as narrow as a phone."""

# The drawings use the same names of colours; %(light)s and %(dark)s are those of the runs.
STYLE_SHEET = """
:root { color-scheme: light dark; --page: #ffffff; --card: #f6f8fa; --ink: #1c2126;
  --muted: #5d6770; --grid: #e0e4e8; --warn: #8a4b00; %(light)s }
@media (prefers-color-scheme: dark) { :root { --page: #14181c; --card: #1c2228; --ink: #e8ecef;
  --muted: #a0abb5; --grid: #343c44; --warn: #f0b060; %(dark)s } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1rem 4rem; max-width: 60rem; background: var(--page);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .5rem; }
p { margin: .4rem 0; max-width: 44rem; } .muted, small { color: var(--muted); }
small { display: block; font-size: .8rem; line-height: 1.35; font-weight: 400; }
code { font: .86em ui-monospace, Menlo, Consolas, monospace; background: var(--card);
  padding: .1em .35em; border-radius: 4px; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1.2rem 0 1rem; padding: 0; }
.tiles > div { flex: 1 1 9rem; background: var(--card); border-radius: 8px; padding: .7rem .9rem; }
.tiles b { display: block; font-size: 1.6rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; } .tiles .official { outline: 2px solid var(--run-0); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%%; margin: .6rem 0; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .9rem .4rem 0;
  border-bottom: 1px solid var(--grid); }
th { font-weight: 600; color: var(--muted); white-space: nowrap; }
tbody th { color: var(--ink); white-space: normal; min-width: 8rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }
.figures { display: grid; gap: 1.2rem; margin: .8rem 0; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%%, 22rem), 1fr)); }
figure { margin: 0; max-width: 34rem; } figure svg { width: 100%%; height: auto; display: block; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; }
svg image { image-rendering: pixelated; } svg * { stroke-linejoin: round; }
.note { border-left: 3px solid var(--grid); padding: .15rem 0 .15rem .8rem; color: var(--muted); }
.warn { border-color: var(--warn); color: var(--warn); }
details { margin: .6rem 0; border-top: 1px solid var(--grid); padding-top: .6rem; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; background: var(--card); padding: .8rem; border-radius: 8px;
  font-size: .8rem; line-height: 1.45; }
@media (max-width: 30rem) { table { font-size: .8rem; } small { font-size: .72rem; }
  th, td { padding-right: .5rem; } tbody th { min-width: 5.6rem; } }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .4em; }
"""

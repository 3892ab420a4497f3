"""HTML for the page: its style, sections, tables, charts."""

import html
import math

STYLE = """
:root { --ink: #1d1f23; --soft: #666b73; --line: #d9dce1; --card: #f6f7f9; --good: #1d7a46;
  --bad: #b3401f; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --soft: #9aa0aa; --line: #353941;
  --card: #1f2228; --good: #5cc48c; --bad: #f08a66; --paper: #15171b; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 62rem; margin: 0 auto; padding: 1.2rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .6rem 0; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .3rem }
h3 { font-size: 1rem; margin: 1.3rem 0 .3rem }
p { margin: .4rem 0 }
.lead { font-size: 1.1rem }
.note { color: var(--soft); font-size: .88rem; max-width: 46rem }
article { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem .9rem; margin: .9rem 0 }
blockquote { margin: 0; font-style: italic }
.players, .charts { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); margin-top: .6rem }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)) }
.bars { display: grid; gap: .8rem; margin-top: .6rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)) }
figure { margin: 0; min-width: 0 }
figcaption { font-size: .82rem; color: var(--soft); margin-bottom: .2rem }
figure img { display: block; width: 100%; height: 5.5rem; border-radius: 4px }
audio { display: block; width: 100%; height: 2.3rem; margin-top: .4rem }
svg { display: block; width: 100%; height: auto; font-family: inherit }
.scroll { overflow-x: auto; margin: .7rem 0 }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .22rem .9rem .22rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: break-word; max-width: 40rem }
th { font-weight: 600; color: var(--soft) }
small { color: var(--soft) }
ul { margin: .3rem 0; padding-left: 1.2rem }
.good, .bad { white-space: nowrap } .good { color: var(--good) } .bad { color: var(--bad) }
.legend { font-size: .85rem; color: var(--soft) }
.legend span { margin-right: 1.1rem } .legend i { display: inline-block; width: .9rem;
  height: .2rem; margin-right: .35rem; vertical-align: middle }
summary { cursor: pointer; font-size: .88rem; color: var(--soft) }
"""


def document(title: str, inner: str) -> str:
  """A whole page as HTML, which needs no network: a title in plain text, then `inner` (HTML)."""
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>"
    f"<body><main><h1>{html.escape(title)}</h1>{inner}</main></body></html>\n"
  )


def player(label: str, picture: str, source: str) -> str:
  """A figure as HTML: a label in plain text, a picture (data URI) and a player of a file."""
  return (
    f"<figure><figcaption>{html.escape(label)}</figcaption>"
    f'<img src="{picture}" alt="spectrogram, {html.escape(label, quote=True)}">'
    f'<audio controls preload="none" src="{html.escape(source, quote=True)}"></audio></figure>'
  )


def amount(value: float) -> str:
  """A number for people: three significant digits, no trailing zeros.

  >>> amount(0.12345), amount(24000.0), amount(3.0)
  ('0.123', '24,000', '3')
  """
  if value and abs(value) < 0.001:
    return f"{value:.1e}"
  if abs(value) >= 1000:
    return f"{value:,.0f}"
  digits = 2 - (math.floor(math.log10(abs(value))) if value else 0)
  text = f"{value:.{max(0, digits)}f}"
  return text.rstrip("0").rstrip(".") if "." in text else text


def interval(value: float, bounds) -> str:
  """A number with its interval (low, high) in brackets, or alone where that is None.

  >>> interval(0.5, (0.41, 0.6)), interval(0.5, None)
  ('0.5 (0.41 to 0.6)', '0.5')
  """
  return (
    f"{amount(value)} ({amount(bounds[0])} to {amount(bounds[1])})" if bounds else amount(value)
  )


def mark(met: bool | None) -> str:
  """Whether a target was met, as a coloured word; "" where there is no target."""
  if met is None:
    return ""
  return "<span class=good>met</span>" if met else "<span class=bad>missed</span>"


def bullet(head: str, text: str) -> str:
  """An item of a list as HTML, from plain text."""
  return f"<li>{html.escape(head)} <small>{html.escape(text)}</small></li>"


def section(title: str, note: str, inner: str) -> str:
  """A section of the page as HTML: a title and a note (plain text), then `inner` (HTML)."""
  head = f"<h2>{html.escape(title)}</h2><p class=note>{html.escape(note)}</p>"
  return f"<section>{head}{inner}</section>"


def table(head: list[str], rows: list[list[str]], safe: bool = False) -> str:
  """A table as HTML that scrolls sideways on a narrow screen.

  The cells of the rows are HTML where `safe`, else plain text; those of the head are plain text.
  """

  def row(cells, tag, is_html):
    inner = "".join(f"<{tag}>{cell if is_html else html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"

  body = "".join(row(cells, "td", safe) for cells in rows)
  return (
    f"<div class=scroll><table><thead>{row(head, 'th', False)}</thead>"
    f"<tbody>{body}</tbody></table></div>"
  )


def distances(rows: dict[str, dict]) -> str:
  """A table of {set: distances} (listeners.shown_distances), as HTML."""
  cells = []
  for name, row in rows.items():
    kernel = interval(row["kernel"], row["kernel_interval"])
    limit = "" if row["frechet_limit"] is None else amount(row["frechet_limit"])
    cells.append([name, kernel, amount(row["frechet"]), limit, amount(row["rows"])])
  fad = "Fréchet distance"
  head = ["audio", "kernel distance × 1000", fad, f"{fad}, of infinitely many", "patches of 3 s"]
  return table(head, cells)


def charts(*svgs: str) -> str:
  """Charts (see pictures.svg) side by side, as HTML."""
  return f"<div class=charts>{''.join(f'<div>{svg}</div>' for svg in svgs)}</div>"


def bars(*svgs: str) -> str:
  """Charts of pictures.bars side by side, wider than other charts, as HTML."""
  return f"<div class=bars>{''.join(f'<div>{svg}</div>' for svg in svgs)}</div>"


def details(summary: str, inner: str) -> str:
  """HTML `inner`, folded under a line of plain text."""
  return f"<details><summary>{html.escape(summary)}</summary>{inner}</details>"


def usage_table(usage: list[dict]) -> str:
  """The codebook use of each level (metrics.code_usage), folded, as HTML."""
  keys = ("perplexity", "perplexity_share", "used", "entropy_bits")
  rows = [
    [str(level), *(amount(row[key]) for key in keys)] for level, row in enumerate(usage, start=1)
  ]
  head = ["level", "perplexity", "of the codebook", "codes used", "entropy bits"]
  return details("codebook use by level", table(head, rows))

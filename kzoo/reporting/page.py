"""Sections as one page that stands alone: styles, script and pictures inside, nothing fetched, every text escaped."""

import base64
import hashlib
import html
import io
import pathlib

from PIL import Image

from kzoo.figures import encoded, look
from kzoo.tasks.reports.base import Drawing, Sheet, Table, legible

STYLE, SCRIPT = ((pathlib.Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
SMALL = 128  # pixels of the longer side up to which a picture is kept bit for bit, and enlarged in squares
LONG = 2.0  # width over height from which a tile takes more room


def page(title, kind, lead, cards, parts, foot):
    """The text of the page. cards: [(name, text)], the headline first; parts: HTML that `facts` and `section` gave."""
    policy = f"default-src 'none'; img-src data:; style-src {_allowed(STYLE)}; script-src {_allowed(SCRIPT)}"
    shown = "".join(f"<div><dt>{text(name)}</dt><dd>{text(value)}</dd></div>" for name, value in cards)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="kzoo">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="kind">{text(kind)}</p>
<h1>{text(title)}</h1>
<p>{text(lead)}</p>
<dl class="cards">{shown}</dl>
</header>
<main>
{"".join(parts)}</main>
<footer><p>{text(foot)}</p></footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


def text(value):
    """A text as HTML, also within an attribute's quotes."""
    return html.escape(legible(str(value)))


def facts(title, rows, more=""):
    """A part of the page: pairs of words, those without a second left out; more: HTML below."""
    told = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows if value)
    return f'<section>\n<h2>{text(title)}</h2>\n<dl class="facts">{told}</dl>\n{more}</section>\n'


def folded(title, content):
    """A long text that is unfolded when it is asked for."""
    return f"<details><summary>{text(title)}</summary><pre>{text(content)}</pre></details>\n"


def section(given):
    """A Section as a part of the page."""
    makers = {Table: table, Drawing: drawing, Sheet: sheet}
    paragraphs = "".join(f"<p>{text(paragraph)}</p>\n" for paragraph in given.text)
    parts = "".join(makers[type(part)](part) for part in given.parts)
    return f"<section>\n<h2>{text(given.title)}</h2>\n{paragraphs}{parts}</section>\n"


def table(given):
    """Its columns of numbers to the right; it can be sorted where the page's script runs."""
    rows = given.rows[: given.most]
    numeric = [
        all(not isinstance(row[place], str) for row in (*given.rows, *given.foot)) for place in range(len(given.heads))
    ]
    heads = "".join(f"<th{_side(n)} scope='col'>{text(h)}</th>" for h, n in zip(given.heads, numeric, strict=True))
    body, foot = ("".join(_row(row, given, numeric) for row in each) for each in (rows, given.foot))
    foot = f"<tfoot>{foot}</tfoot>" if foot else ""
    left = len(given.rows) - len(rows)
    note = f'<p class="note">The first {len(rows):,} rows; {left:,} more are in {given.file}.csv.</p>\n' if left else ""
    whole = f"<table class='sorts'><thead><tr>{heads}</tr></thead><tbody>{body}</tbody>{foot}</table>"
    return f'<div class="scroll">{whole}</div>\n{note}'


def drawing(given):
    """Its picture for light and for dark ground."""
    with look():
        day = _data(encoded(given.draw()), "png")
    with look(night=True):
        night = _data(encoded(given.draw()), "png")
    wide = " wide" if given.wide else ""
    return (
        f'<figure class="drawn{wide}"><picture><source media="(prefers-color-scheme: dark)" srcset="{night}">'
        f'<img src="{day}" alt="{text(given.says)}"></picture></figure>\n'
    )


def sheet(given):
    """Its pictures, each with its lines."""
    tiles, long = "", ""
    for tile in given.tiles:
        height, width = tile.picture.shape[:2]
        small = max(height, width) <= SMALL
        long = " long" if width >= LONG * height else long
        title, *lines = tile.lines
        told = f"<b>{text(title)}</b>" + "".join(f"<span>{text(line)}</span>" for line in lines)
        image = f'<img{" class=" + chr(34) + "small" + chr(34) if small else ""} src="{_picture(tile.picture, small)}"'
        tiles += f'<figure>{image} alt="{text(title)}"><figcaption>{told}</figcaption></figure>\n'
    return f'<div class="sheet{long}">\n{tiles}</div>\n'


def number(value):
    """A number as a reader has it: counts with commas, others to three decimals, None as a dash."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}".replace("-", "\u2212")


def _row(row, given, numeric):
    cells = []
    for place, (value, head) in enumerate(zip(row, given.heads, strict=True)):
        tag = "th" if place == 0 else "td"
        scope = " scope='row'" if place == 0 else ""
        if not numeric[place]:
            shown, told = text("" if value is None else value if isinstance(value, str) else number(value)), ""
        else:
            shown, told = number(value), f" data-value='{'' if value is None else value}'"
            if head in given.bars:
                shown += _bar(0.0 if value is None else value)
        cells.append(f"<{tag}{_side(numeric[place])}{scope}{told}>{shown}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def _bar(value):
    wide = f"{100 * min(max(value, 0.0), 1.0):.1f}"
    box = "viewBox='0 0 100 8' preserveAspectRatio='none' aria-hidden='true'"
    return f"<svg class='bar' {box}><rect width='{wide}' height='8'/></svg>"


def _side(numeric):
    return " class='n'" if numeric else ""


def _picture(picture, small):
    file, format = io.BytesIO(), "png" if small else "jpeg"
    Image.fromarray(picture).save(file, format, **({"optimize": True} if small else {"quality": 88}))
    return _data(file.getvalue(), format)


def _data(content, format):
    return f"data:image/{format};base64,{base64.b64encode(content).decode()}"


def _allowed(content):
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

"""A page of headings, paragraphs, tables and figures as one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

import matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RASTER_DPI = 130  # of those parts of a figure that are too many to be drawn as lines


@dataclass(frozen=True)
class Row:
    """One row of a table: the name of the row, its cells, and whether they are somebody else's."""

    name: str
    cells: Sequence[str]
    other: bool = False


class Page:
    """A page that grows from top to bottom; all text is taken literally.

    Parameters
    ----------
    title : str
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._body: list[str] = []
        self._contents: list[tuple[int, str]] = []
        self._numbers = {"Table": 0, "Figure": 0}

    def heading(self, text: str, *, level: int = 2) -> None:
        """Begin a section (level 2) or a part of one (3); it goes into the table of contents."""
        self._contents.append((level, text))
        self._body.append(f'<h{level} id="part-{len(self._contents)}">{escape(text)}</h{level}>')

    def text(self, text: str) -> None:
        """Add a paragraph."""
        self._body.append(f"<p>{escape(text)}</p>")

    def definitions(self, pairs: Sequence[tuple[str, str]], *, terms: bool = False) -> None:
        """Add names and what they stand for; `terms` leaves room for sentences."""
        rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(told)}</dd>" for name, told in pairs)
        self._body.append(f'<dl class="terms">{rows}</dl>' if terms else f"<dl>{rows}</dl>")

    def table(self, title: str, caption: str, header: Sequence[str], rows: Sequence[Row]) -> None:
        """Add a table with its number, its title and its caption above it."""
        for row in rows:
            if len(row.cells) != len(header) - 1:
                raise ValueError(f"table {title!r}, row {row.name!r}: {len(row.cells)} cells for {len(header)} columns")
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
        lines = []
        for row in rows:
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in row.cells)
            mark = ' class="other"' if row.other else ""
            lines.append(f'<tr{mark}><th scope="row">{escape(row.name)}</th>{cells}</tr>')
        self._body.append(
            f'<figure>{self._caption("Table", title, caption)}<div class="scroll"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div></figure>"
        )

    def figure(self, title: str, caption: str, figure: Figure) -> None:
        """Add a picture with its number, its title and its caption below it."""
        picture = base64.b64encode(svg(figure)).decode("ascii")
        width = round(float(figure.get_figwidth()) * 96)
        self._body.append(
            f'<figure><img src="data:image/svg+xml;base64,{picture}" width="{width}" alt="{escape(title)}">'
            f"{self._caption('Figure', title, caption)}</figure>"
        )

    def render(self) -> str:
        """Return the whole page."""
        contents = "".join(
            f'<li{" class=sub" if level > 2 else ""}><a href="#part-{number}">{escape(text)}</a></li>'
            for number, (level, text) in enumerate(self._contents, start=1)
        )
        title = escape(self.title)
        style = resources.files("gpuediff.evaluation").joinpath("report.css").read_text(encoding="utf-8")
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
            f'<style>{style}</style>\n</head>\n<body>\n<div class="frame">\n'
            f'<nav aria-label="Contents"><p>Contents</p><ol>{contents}</ol></nav>\n'
            f"<main>\n<h1>{title}</h1>\n{chr(10).join(self._body)}\n</main>\n</div>\n</body>\n</html>\n"
        )

    def _caption(self, what: str, title: str, caption: str) -> str:
        self._numbers[what] += 1
        return f"<figcaption><b>{what} {self._numbers[what]}. {escape(title)}.</b> {escape(caption)}</figcaption>"


def svg(figure: Figure) -> bytes:
    """Draw a figure as SVG: the same bytes for the same figure, letters as outlines."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "gpuediff", "svg.fonttype": "path"}):
        figure.savefig(buffer, format="svg", dpi=RASTER_DPI, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()

"""Reports: text, pictures and tables, as Markdown, and as one HTML file that opens without a network."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Document", "Table"]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text, of which some is bold: `**so**`."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As Markdown, the caption before it where there is one."""
        lines = [self.caption, ""] if self.caption else []
        lines += [f"| {' | '.join(self.header)} |", f"|{'---|' * len(self.header)}"]
        return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in self.rows)])


@dataclass(frozen=True, slots=True)
class Document:
    """Paragraphs, pictures and tables under a title."""

    title: str
    paragraphs: tuple[str, ...]
    tables: tuple[Table, ...]
    pictures: tuple[tuple[str, str], ...]
    """(file name, what it shows)"""

    def markdown(self) -> str:
        """As Markdown, pictures beside it."""
        parts = [f"# {self.title}", *self.paragraphs]
        parts += [f"![{shown}]({name})" for name, shown in self.pictures]
        return "\n\n".join([*parts, *(table.markdown() for table in self.tables)]) + "\n"

    def html(self, folder: Path) -> str:
        """One file: its pictures are inside."""
        parts = [f"<h1>{html.escape(self.title)}</h1>", *(f"<p>{_inline(text)}</p>" for text in self.paragraphs)]
        for name, shown in self.pictures:
            data = base64.b64encode((folder / name).read_bytes()).decode()
            parts.append(
                f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(shown)}">'
                f"<figcaption>{html.escape(shown)}</figcaption></figure>"
            )
        for table in self.tables:
            head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
            rows = "".join(
                "<tr>" + "".join(f"<td>{_inline(text)}</td>" for text in row) + "</tr>" for row in table.rows
            )
            caption = _inline(table.caption.removeprefix("## "))
            parts.append(
                f"<h2>{caption}</h2><div><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
            )
        return _PAGE.format(title=html.escape(self.title), body="\n".join(parts))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }}
div {{ overflow-x: auto }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums }}
th, td {{ padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }}
th:first-child, td:first-child {{ text-align: left }}
thead th {{ border-bottom: 2px solid #888 }}
h2 {{ font-size: 1.1rem; margin-top: 2rem }}
figure {{ margin: 1.5rem 0 }} img {{ max-width: 100% }} figcaption {{ color: #666 }}
code {{ background: #f3f3f3; padding: .1rem .3rem }}
</style></head><body>
{body}
</body></html>
"""


def _inline(text: str) -> str:
    """Text of ours as HTML: `**bold**` and code."""
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escaped)
    return re.sub(r"`(.+?)`", r"<code>\1</code>", escaped)

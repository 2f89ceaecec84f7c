"""Reads a page as a person or a screen reader does: its elements, its text, its tables, the captions of its plots."""

from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "hr", "img", "input"}


class ParsedPage(HTMLParser):
    """Fails on an element that is not closed where it should be.

    `text` is that of the body, without scripts and styles; `captions_of_plots` has for each plot in a figure its
    caption or, if it has none, that of the figure around it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._regions: list[tuple[str, list[list[str]]]] = []
        self._figures: list[tuple[list[str], int]] = []
        self.captions_of_plots: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def tables(self, prefix: str) -> dict[str, list[list[str]]]:
        """The cells of the tables whose boxes have a name that begins so, by the rest of it."""
        return {name.removeprefix(prefix): rows for name, rows in self._regions if name.startswith(prefix)}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "div" and dict(attrs).get("role") == "region":
            self._regions.append((dict(attrs)["aria-label"] or "", []))
        elif tag == "tr":
            self._regions[-1][1].append([])
        elif tag in ("th", "td"):
            self._regions[-1][1][-1].append("")
        elif tag == "figure":
            self._figures.append(([], 0))
        elif tag == "figcaption":
            self._figures[-1][0].append("")
        elif tag == "svg" and self._figures:
            captions, num_plots = self._figures[-1]
            self._figures[-1] = (captions, num_plots + 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "figure":
            captions, num_plots = self._figures.pop()
            around = [one for outer, _ in reversed(self._figures) for one in outer]
            self.captions_of_plots += [next(iter(captions + around), "")] * num_plots

    def handle_data(self, data: str) -> None:
        if {"script", "style", "title"}.isdisjoint(self.open):
            self.text += data
            if {"th", "td"} & {*self.open}:
                cells = self._regions[-1][1][-1]
                cells[-1] = " ".join(f"{cells[-1]} {data}".split())
            if "figcaption" in self.open:
                self._figures[-1][0][-1] += data

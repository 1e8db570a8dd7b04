"""Pages whose figures stand between two marks: those are made anew, and what is written by hand around them stays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Where figures stand on a page.

    Attributes:
        name: What the marks say.
        title: Of a page that is made where there is none.
    """

    name: str
    title: str

    @property
    def begin(self) -> str:
        """The line before the figures."""
        return f"<!-- {self.name}: begin -->"

    @property
    def end(self) -> str:
        """The line after them."""
        return f"<!-- {self.name}: end -->"

    def around(self, page: Path) -> tuple[str, str]:
        """What stands before and after the figures on a page, or on a new one.

        Raises:
            SystemExit: The page has no marks.
        """
        text = page.read_text(encoding="utf-8") if page.exists() else f"# {self.title}\n\n{self.begin}\n{self.end}\n"
        if self.begin not in text or self.end not in text:
            raise SystemExit(f"{page} has no marks to put the figures between: {self.begin} and {self.end}")
        before, _, rest = text.partition(self.begin)
        return before, rest.partition(self.end)[2]

    def write(self, page: Path, figures: str) -> None:
        """Put figures between the marks of a page, which is made where there is none; raises as `around` does."""
        before, after = self.around(page)
        page.write_text(f"{before}{self.begin}\n{figures}\n{self.end}{after}", encoding="utf-8")

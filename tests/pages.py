"""The pages of the project, found by glob, and what stands in them: headings, links, commands, code."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
_PROGRAM = re.compile(r"(?:\S+=\S+ )?(lightning-fwd|pytest|pip|tools/\w+\.sh|python (?:-m \w+|tools/)|/usr/bin/time)\b")


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    def __str__(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @cached_property
    def text(self) -> str:
        return self.path.read_text()

    @cached_property
    def tokens(self) -> list[Token]:
        """Block tokens, the inline ones among them flat."""
        blocks = MarkdownIt("commonmark").enable("table").parse(self.text)
        return [token for block in blocks for token in (block, *(block.children or ()))]

    @cached_property
    def anchors(self) -> set[str]:
        """Of the headings, as GitHub makes them."""
        found: set[str] = set()
        for heading, content in zip(self.tokens, self.tokens[1:], strict=False):
            if heading.type == "heading_open":
                slug = re.sub(r"[^\w\- ]", "", content.content.strip().lower()).replace(" ", "-")
                found.add(next(name for name in [slug, *(f"{slug}-{i}" for i in range(1, 99))] if name not in found))
        return found

    @property
    def links(self) -> list[str]:
        """Targets in this repository, as written."""
        targets = [str(token.attrs["href"]) for token in self.tokens if token.type == "link_open"]
        return [target for target in targets if not re.match(r"\w+:", target)]

    def blocks(self, language: str) -> list[str]:
        """Fenced code in one language."""
        return [token.content for token in self.tokens if token.type == "fence" and token.info == language]

    @property
    def spans(self) -> list[str]:
        """Code within lines."""
        return [token.content for token in self.tokens if token.type == "code_inline"]

    @property
    def commands(self) -> list[list[str]]:
        """Every command, in words: those of shell blocks and those within lines. "The same with `--x 1`" is the last ``fit`` with ``--x 1``
        added."""
        found: list[list[str]] = []
        for before, token in zip([None, *self.tokens], self.tokens, strict=False):
            lines = []
            if token.type == "fence" and token.info == "bash":
                lines = token.content.replace("\\\n", " ").splitlines()
            elif token.type == "code_inline" and _PROGRAM.match(token.content):
                lines = [token.content]
            elif token.type == "code_inline" and before is not None and before.content.endswith("the same with "):
                fit = next(
                    words for words in reversed(found) if words[:2] == ["lightning-fwd", "fit"] and "--seed_everything" not in words[-1:]
                )
                found.append([*fit, *shlex.split(token.content)])
            found += [words for line in lines for part in line.split(" && ") if (words := shlex.split(part, comments=True))]
        return found


def pages() -> list[Page]:
    """README.md of the project and of every room, and the other documents of the project; new ones are found by themselves."""
    rooms = [file for top in ("lightning_fwd", "recipes", "tools", "tests") for file in (ROOT / top).rglob("README.md")]
    return [Page(path) for path in sorted([*ROOT.glob("*.md"), *(ROOT / ".github").rglob("*.md"), *rooms])]

"""The code blocks of README.md and docs/, and the commands in them."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Iterator

import places

MARK = re.compile(r"<!-- not run: (.+) -->")
# Words that begin a command. An indented block that begins with one has to be fenced.
PROGRAMS = ("ipt", "make", "python", "python3", "pip", "pytest", "gcloud", "git", "curl", "launch/")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of code.

    Attributes:
      page: the file's path in the repository.
      line: number of the line that opens the block.
      language: the word after the fence.
      code: the lines between the fences.
      reason: why no test runs it, from the comment above; "" if a test does.
    """

    page: str
    line: int
    language: str
    code: str
    reason: str

    def commands(self) -> list[list[str]]:
        """Returns the words of each command of a bash block, without comments and redirections."""
        joined = re.sub(r"\\\n\s*", " ", self.code)
        lexer = shlex.shlex(joined.replace("\n", " ; "), posix=True, punctuation_chars=";|&<>")
        # A comment ends at its line's end, which is no longer there.
        if "#" in joined:
            plain = re.sub(r"(^|\s)#[^\n]*", "", joined)
            lexer = shlex.shlex(plain.replace("\n", " ; "), posix=True, punctuation_chars=";|&<>")
        lexer.whitespace_split = True
        lexer.commenters = ""
        commands: list[list[str]] = [[]]
        words = iter(lexer)
        for word in words:
            if set(word) <= set(";|&"):
                commands.append([])
            elif set(word) <= set("<>"):
                next(words)
            else:
                commands[-1].append(word)
        return [command for command in commands if command]


def pages() -> list[pathlib.Path]:
    """Returns README.md and every Markdown file below docs/."""
    return [places.ROOT / "README.md", *sorted((places.ROOT / "docs").rglob("*.md"))]


def blocks(page: pathlib.Path) -> Iterator[Block]:
    """Yields the fenced blocks of a page."""
    name = page.relative_to(places.ROOT).as_posix()
    opened, language, reason, code, last = 0, "", "", [], ""
    for number, line in enumerate(page.read_text().split("\n"), 1):
        if line.startswith("```") and not opened:
            mark = MARK.fullmatch(last)
            opened, language, code = number, line[3:].strip(), []
            reason = mark[1] if mark else ""
        elif line.startswith("```"):
            yield Block(name, opened, language, "\n".join(code), reason)
            opened = 0
        elif opened:
            code.append(line)
        if line.strip():
            last = line.strip()


def unfenced(page: pathlib.Path) -> list[str]:
    """Returns the first lines of indented blocks that look like commands."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"(?:\n\n|^#.*\n)    (\S.*)", text, re.MULTILINE)
    return [line for line in found if line.startswith(PROGRAMS) and not line.startswith("ipt_jax")]

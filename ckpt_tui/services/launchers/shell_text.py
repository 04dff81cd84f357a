"""The simple commands in a shell script, each with the place of its words: so that one can be changed, and no more.

Reads as sh does as far as words go: quotes, backslashes, `$(...)`, `${...}`, backquotes, comments, here-documents.
Nothing is expanded.
"""

from __future__ import annotations

from ckpt_tui.records import dataclass

_ENDS = ";|&()\n"
_KEYWORDS = frozenset({"if", "then", "else", "elif", "do", "while", "until", "time", "!", "{", "exec", "eval"})


@dataclass(frozen=True, slots=True)
class ShellWord:
    """A word as it stands in the text, quotes and all."""

    raw: str
    begin: int
    end: int

    @property
    def plain(self) -> str:
        """Without its quotes; what would be expanded stays as it is."""
        return (
            self.raw.replace("'", "").replace('"', "").replace("\\", "") if set(self.raw) & set("'\"\\") else self.raw
        )


def simple_commands(text: str) -> list[list[ShellWord]]:
    """The words of every simple command up to its first redirection. Never raises."""
    commands: list[list[ShellWord]] = []
    words: list[ShellWord] = []
    waiting: list[str] = []  # ends of here-documents that begin at the next line
    index, is_redirected = 0, False
    while index < len(text):
        char = text[index]
        if char in " \t" or text.startswith("\\\n", index):
            index += 2 if char == "\\" else 1
        elif char == "#":
            index = _line_end(text, index)
        elif char in _ENDS:
            commands.append(words)
            words, is_redirected = [], False
            index += 1
            if char == "\n":
                while waiting:
                    index = _behind_document(text, index, waiting.pop(0))
        elif char in "<>":
            is_document = text.startswith("<<", index) and not text.startswith("<<<", index)
            while index < len(text) and text[index] in "<>&-|":
                index += 1
            while index < len(text) and text[index] in " \t":
                index += 1
            end = _word_end(text, index)
            if is_document:
                waiting.append(text[index:end].strip("'\"\\"))
            index, is_redirected = max(end, index), True
        else:
            end = _word_end(text, index)
            word = ShellWord(text[index:end], index, end)
            index = end
            if word.raw.isdigit() and text[end : end + 1] in ("<", ">"):
                continue  # `2>`
            if not is_redirected and not (word.raw in _KEYWORDS and not words):
                words.append(word)
    commands.append(words)
    return [command for command in commands if command]


def _word_end(text: str, index: int) -> int:
    while index < len(text):
        char = text[index]
        if char in " \t\n;|&<>()":
            break
        if char == "\\":
            index += 2
        elif char == "'":
            index = _behind(text, "'", index + 1)
        elif char == '"':
            index = _behind_quoted(text, index + 1)
        elif char == "`":
            index = _behind(text, "`", index + 1)
        elif char == "$" and text[index + 1 : index + 2] in ("(", "{"):
            index = _behind_bracket(text, index + 1)
        else:
            index += 1
    return min(index, len(text))


def _behind(text: str, char: str, index: int) -> int:
    found = text.find(char, index)
    return len(text) if found < 0 else found + 1


def _behind_quoted(text: str, index: int) -> int:
    while index < len(text) and text[index] != '"':
        if text[index] == "\\":
            index += 2
        elif text[index] == "$" and text[index + 1 : index + 2] in ("(", "{"):
            index = _behind_bracket(text, index + 1)
        else:
            index += 1
    return index + 1


def _behind_bracket(text: str, index: int) -> int:
    opening = text[index]
    closing = ")" if opening == "(" else "}"
    depth = 0
    while index < len(text):
        char = text[index]
        if char == "\\":
            index += 1
        elif char == "'":
            index = _behind(text, "'", index + 1) - 1
        elif char == '"':
            index = _behind_quoted(text, index + 1) - 1
        elif char == opening:
            depth += 1
        elif char == closing:
            depth -= 1
            if not depth:
                return index + 1
        index += 1
    return len(text)


def _line_end(text: str, index: int) -> int:
    found = text.find("\n", index)
    return len(text) if found < 0 else found


def _behind_document(text: str, index: int, end: str) -> int:
    while index < len(text):
        line_end = _line_end(text, index)
        if text[index:line_end].strip() == end:
            return line_end + 1
        index = line_end + 1
    return len(text)

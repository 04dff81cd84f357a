"""Settings files in YAML, as far as settings need it: mappings, lists and plain values, nested by indentation.

No PyYAML: it would be a dependency of the viewer, and of `inspect`, for one small file beside some checkpoints. What is
not read here (anchors, tags, texts over several lines, several documents) is counted, so that it can be said.
"""

from __future__ import annotations

_MAX_LINES = 20_000
_MAX_DEPTH = 50
_WORDS: dict[str, object] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False, ".nan": float("nan"), ".NaN": float("nan"),
    ".inf": float("inf"), "-.inf": float("-inf"),
}  # fmt: skip


class SimpleYaml:
    """entries: the settings. num_unread: lines that say something that is not read here."""

    __slots__ = ("entries", "num_unread")

    def __init__(self, text: str) -> None:
        self.num_unread = 0
        self.entries: dict[str, object] = {}
        self._read([line.rstrip() for line in text.splitlines()])

    def _read(self, lines: list[str]) -> None:
        # Open containers with the indentation of their lines, the innermost last.
        stack: list[tuple[int, dict[str, object] | list[object]]] = [(-1, self.entries)]
        pending: tuple[dict[str, object], str, int] | None = None  # a key whose value may be on the lines below
        skipped_below: int | None = None  # lines deeper than this belong to what is not read
        if len(lines) > _MAX_LINES:
            self.num_unread += len(lines) - _MAX_LINES
        for raw in lines[:_MAX_LINES]:
            line = _without_comment(raw)
            content = line.strip()
            if not content or content in ("---", "...") or content.startswith("%"):
                continue
            indent = len(line) - len(line.lstrip(" "))
            if skipped_below is not None and indent > skipped_below:
                self.num_unread += 1
                continue
            skipped_below = None
            is_item = content == "-" or content.startswith("- ")
            if pending is not None:
                holder, key, at = pending
                if indent > at or (is_item and indent == at):
                    inner: dict[str, object] | list[object] = [] if is_item else {}
                    if len(stack) > _MAX_DEPTH:
                        self.num_unread += 1
                        continue
                    holder[key] = inner
                    stack.append((indent, inner))
                pending = None
            while len(stack) > 1 and (
                indent < stack[-1][0] or (indent == stack[-1][0] and isinstance(stack[-1][1], list) and not is_item)
            ):
                stack.pop()
            into = stack[-1][1]
            if is_item:
                item = content[1:].strip()
                if isinstance(into, list) and _is_value(item) and not _has_key(item):
                    into.append(_value(item))
                else:
                    self.num_unread += 1
                    skipped_below = indent
                continue
            key, colon, rest = _split(content)
            if not colon or not isinstance(into, dict):
                self.num_unread += 1
                continue
            value = rest.strip()
            if not _is_value(value):
                self.num_unread += 1
                skipped_below = indent
                continue
            into[key] = _value(value)
            if not value:
                pending = (into, key, indent)


def _without_comment(line: str) -> str:
    """The line up to a `#` that stands outside of quotes, behind a space or at the start."""
    if "#" not in line:
        return line
    quote = ""
    for at, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'" and (at == 0 or line[at - 1] in " [{,:" or line[at - 1] == char):
            quote = char
        elif char == "#" and (at == 0 or line[at - 1] in " \t"):
            return line[:at]
    return line


def _split(content: str) -> tuple[str, str, str]:
    """`key: value` at the first colon that ends a key."""
    if content[:1] in ("'", '"'):
        end = content.find(content[0], 1)
        if end > 0 and content[end + 1 : end + 2] == ":":
            return content[1:end], ":", content[end + 2 :]
        return content, "", ""
    at = content.find(": ")
    if at < 0 and content.endswith(":"):
        at = len(content) - 1
    return (content[:at].strip(), ":", content[at + 1 :]) if at > 0 else (content, "", "")


def _has_key(item: str) -> bool:
    return item[:1] not in ("'", '"', "[", "{") and bool(_split(item)[1])


def _is_value(text: str) -> bool:
    """Whether it is a value on one line: no anchor, alias, tag or text that goes on below."""
    if text[:1] in ("&", "*", "!", "|", ">", "?", "@", "`"):
        return False
    if text[:1] in ("'", '"'):
        return len(text) > 1 and text.endswith(text[0])
    if text[:1] in ("[", "{"):
        return text.endswith("]" if text[0] == "[" else "}") and not any(c in text[1:-1] for c in "[]{}&*!")
    return True


def _value(text: str) -> object:
    if text[:1] == "[":
        return [_value(item) for item in _items(text[1:-1])]
    if text[:1] == "{":
        pairs = [_split(item) for item in _items(text[1:-1])]
        return {key: _value(rest.strip()) for key, _, rest in pairs}
    if text[:1] == "'" and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if text[:1] == '"' and len(text) > 1:
        return text[1:-1].replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
    if text in _WORDS:
        return _WORDS[text]
    if text[:1] in "+-.0123456789" and len(text) <= 400 and "_" not in text:
        for kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
    return text


def _items(text: str) -> list[str]:
    """What stands between the commas that are outside of quotes."""
    found, start, quote = [], 0, ""
    for at, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == ",":
            found.append(text[start:at].strip())
            start = at + 1
    last = text[start:].strip()
    return [*found, last] if last else found

"""Numbers, spans of time and moments as logs spell them. None for what is none; nothing raises."""

from __future__ import annotations

import math
import re
from datetime import datetime

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_NONFINITE = {
    "nan": math.nan, "-nan": math.nan, "+nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf,
    "infinity": math.inf, "-infinity": -math.inf,
}  # fmt: skip
_CLOCK = re.compile(r"(?:(\d+) days?,? )?(?:(\d+):)?(\d{1,2}):(\d\d)(?:\.\d+)?")
_SPAN = re.compile(r"(?:(\d+)d ?)?(?:(\d+)h ?)?(?:(\d+)m(?:in)? ?)?(?:(\d+(?:\.\d+)?)s)?")
_MOMENT = re.compile(r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
# A count of seconds that is a moment: 2001 to 5138; a thousand times that is one in milliseconds.
_FIRST_MOMENT, _LAST_MOMENT = 1e9, 1e11
MAX_TEXT = 60


def number(value: object) -> float | None:
    """A value of JSON or the text of one: `0.693`, `"4.5e-05"`, `"nan"`, `"12,345"`."""
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            return None
        try:
            if "_" not in value:  # Python's own spelling, and nobody's log
                return float(value)
        except ValueError:
            pass
        text = value.strip()
        if _NUMBER.fullmatch(text):
            return float(text.replace(",", ""))
        return _NONFINITE.get(text.lower())
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return None


def whole(value: object) -> int | None:
    """A whole number that a step can be: also as `"42"` or `42.0`."""
    found = number(value)
    if found is None or not math.isfinite(found) or not found.is_integer() or abs(found) > 1 << 62:
        return None
    return int(found)


def span_s(value: object) -> float | None:
    """Seconds of `0:01:23`, `1 day, 0:01:23`, `01:23`, `1h 2m 3s`, `5s`; a bare number is none."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return None
    text = value.strip()
    if match := _CLOCK.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    if text and (match := _SPAN.fullmatch(text)):
        days, hours, minutes = (int(part or 0) for part in match.groups()[:3])
        return ((days * 24 + hours) * 60 + minutes) * 60 + float(match[4] or 0)
    return None


def moment(value: object) -> float | None:
    """Unix seconds of a number or text that can be nothing but a moment; without a zone it is this machine's time."""
    if isinstance(value, str):
        found = _MOMENT.search(value[:MAX_TEXT])
        return _of_calendar(found) if found else None
    seconds = number(value)
    if seconds is None:
        return None
    if _FIRST_MOMENT <= seconds < _LAST_MOMENT:
        return seconds
    return seconds / 1000 if _FIRST_MOMENT <= seconds / 1000 < _LAST_MOMENT else None


def is_zoned(value: object) -> bool:
    """Whether what `moment()` reads is the same on every machine."""
    found = _MOMENT.search(value[:MAX_TEXT]) if isinstance(value, str) else None
    return found is None or found[8] is not None


def _of_calendar(match: re.Match[str]) -> float | None:
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction = f"{match[7] or '0'}"
    zone = match[8]
    try:
        at = datetime(year, month, day, hour, minute, second)
        if zone is not None:
            at = datetime.fromisoformat(f"{at.isoformat()}{'+00:00' if zone == 'Z' else zone}")
        return at.timestamp() + float(f"0.{fraction}")
    except (ValueError, OverflowError, OSError):
        return None

"""JSON that somebody else wrote, parsed within bounds: a small file can ask for a hundred times its size in memory."""

from __future__ import annotations

from ckpt_tui.errors import CkptError
from ckpt_tui.text import safe_text

MAX_JSON_BYTES = 64 << 20  # a trainer_state.json of 250,000 log entries has 44 MB
_MAX_CONTAINERS = 1_000_000
_MAX_VALUES = 3_000_000
_HINT = "Copy it again, or use another checkpoint: `ckpt-tui list` on its directory shows which are valid."


def parse_json(raw: bytes, path: str) -> object:
    """The value of a JSON text; NaN and Infinity are taken, as Hugging Face writes them.

    Raises CkptError "Damaged checkpoint" when it is none, "Not readable" when it holds more than any such file.
    """
    if raw.count(b"[") + raw.count(b"{") > _MAX_CONTAINERS or raw.count(b",") > _MAX_VALUES:
        raise CkptError("Not readable", f"{path} holds more values than a checkpoint's JSON", "It may be made to harm.")
    import json

    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise CkptError("Damaged checkpoint", f"{path} is no JSON: {safe_text(error, 100)}", _HINT) from None

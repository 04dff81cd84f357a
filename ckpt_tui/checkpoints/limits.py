"""What a reader may spend on a file before it says no. Every limit is a finding or a `CkptError`, never a hang."""

from __future__ import annotations

from ckpt_tui.records import dataclass


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds that honest files of hundreds of gigabytes keep, and hostile ones hit early."""

    max_pickle_bytes: int = 512 * 1024 * 1024  # a pickle without its tensors; 30,000 tensors take 5 MB
    max_opcodes: int = 50_000_000
    max_stack: int = 5_000_000
    max_memo: int = 20_000_000
    max_nodes: int = 20_000_000  # containers and leaves of the decoded state
    max_depth: int = 10_000  # when walking the state: real graphs are up to 3,000 deep
    max_tensors: int = 5_000_000
    max_zip_entries: int = 2_000_000
    max_json_bytes: int = 512 * 1024 * 1024  # safetensors header, index.json
    max_string_bytes: int = 256 * 1024 * 1024


DEFAULT_LIMITS = ReadLimits()

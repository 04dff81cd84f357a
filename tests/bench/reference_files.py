"""The reference files of the budgets, made once and kept in a cache directory (`--files`, default under /tmp).

T1: 0.9 GB torch training checkpoint (72 weights of 1024x1024, AdamW state, RNG states, args; about 300 records).
T1b: the same after one change of a weight; T1c: after a change of every one. T30k, T100k: so many small tensors.
S1: 1 GB safetensors. L3, L6: logs of 10^3 and 10^6 lines.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path

_MAKE_T1 = """
import argparse, random, sys, numpy, torch
torch.manual_seed(0)
model = {f"layers.{i}.weight": torch.randn(1024, 1024) for i in range(72)}
state = {
    i: {"step": torch.tensor(100.0), "exp_avg": torch.randn(1024, 1024), "exp_avg_sq": torch.rand(1024, 1024)}
    for i in range(72)
}
group = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "params": list(range(72))}
whole = {
    "step": 100, "epoch": 1, "model": model, "optimizer": {"state": state, "param_groups": [group]},
    "rng_state": {"python": random.getstate(), "numpy": numpy.random.get_state(), "torch": torch.get_rng_state()},
    "args": argparse.Namespace(lr=1e-3, batch_size=32), "loss_history": [1.0] * 100,
}
torch.save(whole, sys.argv[1])
model["layers.7.weight"][5, 5] += 1
whole["args"].lr = 2e-3
torch.save(whole, sys.argv[2])
"""

_MAKE_T1C = """
import sys, torch
from pathlib import Path
whole = torch.load(Path(sys.argv[1]).with_name("T1.pt"), weights_only=False)
tensors = list(whole["model"].values())
for moments in whole["optimizer"]["state"].values():
    tensors += [moments["exp_avg"], moments["exp_avg_sq"]]
for tensor in tensors:
    tensor.mul_(1.001)
torch.save(whole, sys.argv[1])
"""

_MAKE_T30K = """
import sys, torch
torch.save({"model": {f"blocks.{i // 10}.p{i % 10}": torch.zeros(4) for i in range(30_000)}}, sys.argv[1])
"""

_MAKE_T100K = """
import sys, torch
weights = {f"layers.{i // 10}.block{i % 10}.weight": torch.zeros(4) for i in range(100_000)}
torch.save({"step": 100, "model": weights}, sys.argv[1])
"""

_MAKE_S1 = """
import sys, torch
from safetensors.torch import save_file
torch.manual_seed(0)
save_file({f"layers.{i}.weight": torch.randn(1024, 1024) for i in range(238)}, sys.argv[1])
"""


class ReferenceFiles:
    """Makes what is asked for, once; a file is complete when it has its final name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def _by_script(self, script: str, *names: str) -> list[Path]:
        paths = [self.directory / name for name in names]
        if not all(path.exists() for path in paths):
            partial = [path.with_suffix(path.suffix + ".partial") for path in paths]
            subprocess.run([sys.executable, "-c", script, *map(str, partial)], check=True)
            for source, target in zip(partial, paths, strict=True):
                source.rename(target)
        for path in paths:
            _warm(path)
        return paths

    def t1_pair(self) -> tuple[Path, Path]:
        first, second = self._by_script(_MAKE_T1, "T1.pt", "T1b.pt")
        return first, second

    def t1c(self) -> Path:
        """T1 after a change of every weight and moment."""
        self.t1_pair()
        return self._by_script(_MAKE_T1C, "T1c.pt")[0]

    def t30k(self) -> Path:
        return self._by_script(_MAKE_T30K, "T30k.pt")[0]

    def t100k(self) -> Path:
        return self._by_script(_MAKE_T100K, "T100k.pt")[0]

    def s1(self) -> Path:
        return self._by_script(_MAKE_S1, "S1.safetensors")[0]

    def log(self, num_lines: int) -> Path:
        """A run directory whose log has that many lines: one crash, evaluations and saves on the way."""
        directory = self.directory / f"L{round(math.log10(num_lines))}"
        log = directory / "events.jsonl"
        if not log.exists():
            directory.mkdir(exist_ok=True)
            partial = directory / "events.jsonl.partial"
            write_log(partial, num_lines)
            partial.rename(log)
        _warm(log)
        return directory


def write_log(path: Path, num_lines: int, seed: int = 0) -> None:
    """A finished run of two sessions with `num_lines` events, as the bundled trainer writes them."""
    draw = random.Random(seed)
    lines: list[str] = []
    ts, seq, session, step = 1_790_000_000.0, 0, 1, 0

    def add(event: str, **fields: object) -> None:
        nonlocal seq
        seq += 1
        lines.append(
            json.dumps({"v": 1, "event": event, "seq": seq, "ts": ts, "session": session, "step": step} | fields)
        )

    save_every = max(num_lines // 40, 10)
    crash_at = num_lines // 2
    total = num_lines - num_lines // 20
    with open(path, "w", encoding="utf-8") as out:
        add("run_start", run_name="bench", config={"lr": 1e-3}, argv=[], pid=1, host="bench", total_steps=total)
        saved = 0
        while seq < num_lines - 1:
            step += 1
            ts += 0.05
            if seq == crash_at:
                ts += 600.0
                session, step = 2, saved
                add("run_start", run_name="bench", config={"lr": 1e-3}, argv=[], pid=2, host="bench",
                    total_steps=total, start_step=saved, resumed_from={"path": "latest.pt", "digest": ""})  # fmt: skip
                continue
            loss = 1.4 + 3.0 * math.exp(-4.0 * step / total) + draw.gauss(0, 0.03)
            add("step", epoch=step / 1000, loss=round(loss, 5), lr=1e-3, grad_norm=1.0, tokens_per_s=9400.0,
                step_seconds=0.05)  # fmt: skip
            if step % (save_every // 2) == 0:
                add("eval", val_loss=round(loss + 0.05, 5), seconds=0.2)
            if step % save_every == 0:
                saved = step
                add("checkpoint_saved", path=f"rolling_step_{step:06d}.pt", kind="rolling", bytes=10_400_000,
                    digest="crc32:0", save_seconds=0.2, stall_seconds=0.2, names=["latest.pt"])  # fmt: skip
            if len(lines) >= 10_000:
                out.write("\n".join(lines) + "\n")
                lines.clear()
        add("run_end", status="finished", reason="all steps done")
        out.write("\n".join(lines) + "\n")


def _warm(path: Path) -> None:
    """Into the page cache, so that the disk is not what is measured."""
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(8 << 20)
        while file.readinto(buffer):
            pass

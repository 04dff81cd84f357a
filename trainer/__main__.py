"""`python -m trainer --out DIR ...` trains; `--resume auto` continues; `hash DIR` prints a fingerprint."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    arguments = sys.argv[1:]
    if arguments[:1] == ["hash"]:
        return print_hash(arguments[1:])

    from trainer.config import parse

    config, invocation = parse(arguments)
    directory = Path(invocation.out)
    if invocation.list_checkpoints:
        return list_checkpoints(directory)

    # What is below needs torch, which takes seconds to import: a usage error has been said by now.
    from trainer.checkpoint.lock import DirectoryLock, LockedError
    from trainer.checkpoint.publish import clean_up
    from trainer.checkpoint.registry import Registry

    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
    except LockedError as error:
        return fail(f"another trainer is at work in {directory}: {error}. Stop it first, or use another --out.")
    except OSError as error:
        return fail(f"cannot write to {directory}: {error.strerror or error}")
    try:
        clean_up(directory)

        import torch

        from trainer import loop
        from trainer.checkpoint import resume
        from trainer.checkpoint import state as checkpoint_state
        from trainer.data import load_corpus

        if config.threads:
            torch.set_num_threads(config.threads)
        registry = Registry(directory)
        registry.load(checkpoint_state.load)
        try:
            found = resume.find(directory, invocation.resume, registry) if invocation.resume else None
        except resume.NothingToResumeError as error:
            return fail(f"cannot resume: {error}")
        if not invocation.resume and any(registry.checkpoint_files()):
            return fail(f"{directory} holds checkpoints already: add `--resume auto`, or use another --out.")
        for name, why in found.rejected if found else ():
            say(f"rejected {name}: {why}")
        try:
            corpus = load_corpus(config.data)
            argv = [sys.executable, "-m", "trainer", *arguments]
            if found:
                print(f"resumed from step {found.state['step']} ({found.path.name})", flush=True)
            return loop.run(config, directory, argv, corpus, found, registry, say)
        except ValueError as error:
            return fail(str(error))
        except OSError as error:
            return fail(f"cannot read {error.filename}: {error.strerror}")
    finally:
        lock.release()


def print_hash(arguments: list[str]) -> int:
    """A fingerprint of the newest good checkpoint's training state, free of times and paths."""
    if len(arguments) != 1:
        return fail("usage: python -m trainer hash DIR")
    directory = Path(arguments[0])
    if not directory.is_dir():
        return fail(f"there is no directory {directory}")
    from trainer.checkpoint import resume
    from trainer.checkpoint import state as checkpoint_state
    from trainer.checkpoint.registry import Registry

    registry = Registry(directory)
    registry.load(checkpoint_state.load)
    try:
        found = resume.find(directory, "auto", registry)
    except resume.NothingToResumeError as error:
        return fail(str(error))
    if found is None:
        return fail(f"there is no checkpoint in {directory}")
    print(f"sha256:{checkpoint_state.fingerprint(found.state)}  step {found.state['step']}")
    return 0


def list_checkpoints(directory: Path) -> int:
    """The checkpoints by kind, with step, losses and sizes, and the total."""
    if not directory.is_dir():
        return fail(f"there is no directory {directory}")
    from trainer.checkpoint import state as checkpoint_state
    from trainer.checkpoint.registry import KINDS, Registry

    registry = Registry(directory)
    registry.load(checkpoint_state.load)
    inodes: dict[int, int] = {}
    for kind in KINDS:
        entries = sorted((e for e in registry.entries.values() if e.kind == kind), key=lambda e: (e.step, e.path))
        if entries:
            print(f"{kind}:")
        for entry in entries:
            losses = "  ".join(
                f"{name} {value:.4f}" for name, value in entry.metrics.items() if isinstance(value, float)
            )
            print(f"  {entry.path:<48} step {entry.step:>8,}  {entry.bytes / 1e6:>8.1f} MB  {losses}")
            inodes[(directory / entry.path).stat().st_ino] = entry.bytes
    print(f"{len(registry.entries)} checkpoints, {sum(inodes.values()) / 1e6:.1f} MB on disk")
    return 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def fail(line: str) -> int:
    say(f"error: {line}")
    return 2


if __name__ == "__main__":
    sys.exit(main())

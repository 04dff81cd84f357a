"""What is no checkpoint is called what it looks like, with what to do about it."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import torch

from ckpt_tui.checkpoints.registry import open_checkpoint, sniff
from ckpt_tui.errors import CkptError
from tests.builders.zip_files import Record, zip_bytes

# what it looks like -> (bytes, title, message, hint)
LOOKS = {
    "empty": (b"", "Empty file", "the save never wrote it", "backup"),
    "one byte of a pickle": (b"\x80", "Not a checkpoint", "none of the formats", "name the program"),
    "Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "Not a checkpoint", "a Git LFS pointer", "git lfs pull",
    ),
    "web page": (b"\n <!DOCTYPE html><html>", "Not a checkpoint", "a web page", "Download it again"),
    "XML answer": (b'<?xml version="1.0"?><Error/>', "Not a checkpoint", "a web page", "Download it again"),
    "gzip": (gzip.compress(b"x" * 100), "Not a checkpoint", "compressed with gzip", "gzip -dk"),
    "zeros": (bytes(5000), "Not a checkpoint", "nothing but zeros", "backup"),
    "text": (b"step 1 loss 2\n", "Not a checkpoint", "is text", "less"),
    "text cut inside a letter": (b"x" + "é".encode() * 300, "Not a checkpoint", "is text", "less"),
    "noise": (b"\x01\xfe\x00\x7f" * 40, "Not a checkpoint", "none of the formats", "name the program"),
    "office document": (
        zip_bytes(Record("word/document.xml", b"<xml/>")), "Not a checkpoint", "word/document.xml", "",
    ),
    "NumPy archive": (zip_bytes(Record("a.npy", b"\x93NUMPY")), "Damaged checkpoint", "none of its arrays", ""),
    "empty zip": (zip_bytes(), "Not a checkpoint", "it holds nothing", ""),
}  # fmt: skip


@pytest.mark.parametrize("look", list(LOOKS))
def test_it_is_called_what_it_looks_like(tmp_path: Path, look: str) -> None:
    data, title, message, hint = LOOKS[look]
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    with pytest.raises(CkptError) as caught:
        open_checkpoint(path)
    assert caught.value.title == title
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert str(path) in caught.value.message


def test_the_name_does_not_decide(tmp_path: Path) -> None:
    from safetensors.torch import save

    path = tmp_path / "model.pt"
    path.write_bytes(save({"w": torch.ones(2)}))
    assert sniff(path) == open_checkpoint(path).format == "safetensors"


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe.pt"
    os.mkfifo(path)
    with pytest.raises(CkptError, match="not a regular file"):
        open_checkpoint(path)
    assert sniff(path) is None


def test_a_directory_says_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(CkptError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.message.endswith("is a directory of no layout that is known, and holds no checkpoint")
    for name in ("latest.pt", "step_10.pt", "a.pt", "b.pt"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    (tmp_path / "notes.txt").write_text("not one")
    with pytest.raises(CkptError) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.message.endswith("not one of them: it holds a.pt, b.pt, latest.pt and 1 more")
    assert caught.value.hint == f"Name one of them, or list them all: ckpt-tui list {tmp_path}"


def test_a_path_with_a_nul_byte_is_not_found() -> None:
    with pytest.raises(CkptError) as caught:
        open_checkpoint("a\0b")
    assert caught.value.title == "Not found"

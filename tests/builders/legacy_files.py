"""Files in torch's formats before 1.6."""

from __future__ import annotations

import io
import warnings

import torch


def legacy_bytes(value: object, protocol: int = 2) -> bytes:
    """The format of five pickles, as torch still writes it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the source of a built-in class cannot be found
        torch.save(value, buffer, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    return buffer.getvalue()

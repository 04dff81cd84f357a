"""Loaded by every interpreter that is started with this directory in PYTHONPATH: see tests/builders/held.py."""

from __future__ import annotations

import os

from tests.builders.held import hold_as_told

hold_as_told(os.environ)

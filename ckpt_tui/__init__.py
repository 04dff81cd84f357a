"""ckpt-tui: flight recorder and cockpit of PyTorch training runs. Importing this costs nothing."""

__version__ = "0.1.0"

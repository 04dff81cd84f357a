"""Checkpoints: what is in them, how they become durable, which are kept, and which one a resume takes."""

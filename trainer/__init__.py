"""A fault-tolerant PyTorch trainer: `python -m trainer --out DIR`. Importing this package loads nothing."""

"""The event log: the contract between any trainer and the viewer. Importing this package loads nothing."""

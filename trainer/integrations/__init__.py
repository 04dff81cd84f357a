"""The trainer's checkpointing and event log inside other people's trainers."""

"""Training on several processes: who is alive, how a model is spread over them, and how their states come together."""

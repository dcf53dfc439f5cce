"""The networks, their losses and their weights on disk. Plain arguments, no config, no MLflow."""

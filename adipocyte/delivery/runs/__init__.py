"""MLflow runs: opening and finding them, trainings, the search for settings."""

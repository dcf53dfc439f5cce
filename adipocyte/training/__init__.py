"""The training loops. They know no MLflow: a tracker that is passed in takes their measurements."""

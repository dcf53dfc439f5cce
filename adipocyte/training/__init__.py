"""The training loops. They know no MLflow: what they measure goes to a tracker that is passed in."""

"""What answers requests: the served model, its parameters, the page to try it."""

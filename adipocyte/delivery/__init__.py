"""Where the product meets MLflow, HTTP and folders of files."""

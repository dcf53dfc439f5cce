"""Where the product meets MLflow, HTTP, Ray and folders of files."""

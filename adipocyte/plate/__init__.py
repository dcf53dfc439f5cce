"""The raw plate: its file names and its TIFFs. Read-only, always."""

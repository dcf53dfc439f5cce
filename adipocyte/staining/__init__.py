"""The chain that paints, and the folder that holds all it needs."""

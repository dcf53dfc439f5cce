"""The network that comes with the package: its bundle, and the card that says what it is worth."""

from pathlib import Path

BUNDLE = Path(__file__).parent / "bundle"
CARD = Path(__file__).parent / "README.md"

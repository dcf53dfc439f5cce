"""The commands of MLproject: each reads its settings, calls `adipocyte` and prints the outcome."""

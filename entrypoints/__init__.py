"""The commands of the MLproject: each file reads its settings, calls one function of `adipocyte` and logs what came out."""

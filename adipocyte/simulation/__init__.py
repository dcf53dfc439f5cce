"""A simulated plate: fat cells whose brightfield and fluorescence images obey the same physics and the same counts as real ones."""

from adipocyte.simulation.conditions import Conditions, draw_conditions
from adipocyte.simulation.field import SimulatedField, simulate_field
from adipocyte.simulation.misalignment import Misalignment, misalignment_at

__all__ = [
    "Conditions",
    "Misalignment",
    "SimulatedField",
    "draw_conditions",
    "misalignment_at",
    "simulate_field",
]

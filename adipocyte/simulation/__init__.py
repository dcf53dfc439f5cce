"""A simulated plate: images of fat cells with the physics and the counts of real ones."""

from adipocyte.simulation.conditions import Conditions, draw_conditions
from adipocyte.simulation.field import SimulatedField, simulate_field
from adipocyte.simulation.instruments import INSTRUMENTS, Instrument
from adipocyte.simulation.misalignment import Misalignment, misalignment_at

__all__ = [
    "INSTRUMENTS",
    "Conditions",
    "Instrument",
    "Misalignment",
    "SimulatedField",
    "draw_conditions",
    "misalignment_at",
    "simulate_field",
]

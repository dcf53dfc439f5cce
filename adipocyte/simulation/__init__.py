"""A simulated plate: images of fat cells with the physics and the counts of real ones."""

from adipocyte.simulation.conditions import Conditions, draw_any_conditions, draw_conditions
from adipocyte.simulation.field import SimulatedField, simulate_field
from adipocyte.simulation.instruments import INSTRUMENTS, Instrument, draw_instrument
from adipocyte.simulation.misalignment import Misalignment, misalignment_at

__all__ = [
    "INSTRUMENTS",
    "Conditions",
    "Instrument",
    "Misalignment",
    "SimulatedField",
    "draw_any_conditions",
    "draw_conditions",
    "draw_instrument",
    "misalignment_at",
    "simulate_field",
]

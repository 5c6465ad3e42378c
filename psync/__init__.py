"""psync keeps two directory trees on two hosts the same, both ways, in real time."""

__version__ = "0.1.0"

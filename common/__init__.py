"""What both stages need: labels, geometry, one case, and the store they meet in."""

__version__ = "0.1.0"

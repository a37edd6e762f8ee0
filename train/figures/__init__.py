"""Figures of runs, scores and networks, each a function of plain data."""

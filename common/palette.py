"""Colours of the regions, the same in every picture and page of the project."""

REGION_COLOURS = {"wt": "#648fff", "tc": "#ffb000", "et": "#dc267f"}
"""Blue, gold and magenta: told apart with every kind of colour blindness, and on grey images.

Of the IBM Design Language's colour-blind safe palette.
"""

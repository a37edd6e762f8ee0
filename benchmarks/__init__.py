"""Everything that only measures; `python -m benchmarks --help` lists it. Nothing imports it."""

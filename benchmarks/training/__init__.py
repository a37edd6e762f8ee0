"""`python -m train bench`: how fast training is on this machine, and what bounds it.

`suite` has the sections, each a module with a `measure` of its own. It imports nothing here, so
that an environment of a peer can use `timing`.
"""

"""`python -m train gpu-check`: whether training on this GPU is what it is on a CPU.

`command` has the checks, each a module with a `measure` of its own, as the sections of
`benchmarks.training` have.
"""

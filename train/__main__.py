"""`python -m train`."""

from common.interrupts import interrupts_end_at_once

with interrupts_end_at_once():
    from train.cli import main

main()

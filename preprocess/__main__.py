"""`fmnet-preprocess`: the entry point of the console script."""

from common.interrupts import interrupts_end_at_once

with interrupts_end_at_once():
    from preprocess.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()

"""`python -m inspectd.runtime.augment`: the process of one order."""

from .process import main

if __name__ == "__main__":
    main()

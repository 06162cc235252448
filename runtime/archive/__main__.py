"""`python -m inspectd.runtime.archive`: the archive's process."""

from .process import main

if __name__ == "__main__":
    main()

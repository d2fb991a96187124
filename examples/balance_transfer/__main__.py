"""`python -m examples.balance_transfer`.

Must not be in here: anything else.  Every worker process imports this file again under another name.
"""

if __name__ == "__main__":
    import sys

    from examples.balance_transfer.cli import main

    sys.exit(main())

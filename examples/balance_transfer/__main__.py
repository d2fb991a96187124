"""`python -m examples.balance_transfer`.

Must not be in here: anything else.  Every worker process imports this file again under another name.
"""

if __name__ == "__main__":
    import signal
    import sys

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was started is ended, as after Ctrl-C
    try:
        from examples.balance_transfer.cli import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "rich":
            raise
        sys.stderr.write("error: this example prints with rich: pip install 'casops[demo]'\n")
        sys.exit(2)

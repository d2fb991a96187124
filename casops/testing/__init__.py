"""For tests of your own operations: `crash_everywhere` runs one in every world that can be thought of."""

from casops.testing.crashing import Report, crash_everywhere

__all__ = ["Report", "crash_everywhere"]

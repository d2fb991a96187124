"""`python -m casops.service module:app`, the same as `casops serve module:app`.

Must not be in here: anything else.
"""

import sys

from casops.service.serving import serve

if __name__ == "__main__":
    sys.exit(serve())

"""Bounds of the protocol that nobody should need to set, each with its reason.

Must not be in here: anything a user may want to change (casops.options).
"""

# Documents one operation may look at.  The names of all are in each of its stages, so what is
# written grows with the square of it; 256 names of 50 bytes make stages of 13 KB.
MAX_DOCUMENTS = 256

# Bytes of JSON in a result, or in the details of a refusal.  R(i) grows after it was proposed, by lines of history and
# by the names of documents with void stages (half a megabyte at most), and must still be taken by a store that ends at
# 20 MiB; or what has happened could never be marked so.
MAX_RESULT = 16 * 1024 * 1024

# Looks at the clock in one call.  A patient call looks some hundred times; this only ends a loop
# whose clock stands still.
MAX_ROUNDS = 10_000

# Double collects of a snapshot before it gives up; each costs one batch of reads.
MAX_COLLECTS = 200

# Rounds in which settling writes, re-reads and writes again.  Every further round means that
# somebody else wrote a document in between, and whoever did has removed our stage or will.
MAX_SETTLE_ROUNDS = 50

# Results forgotten by one call: as many as a request of the message tier can acknowledge; two reads each in one batch.
MAX_FORGOTTEN = 64

# Results that a sweep looks at in one batch of reads: few round trips, and what it holds at once is bounded.
MAX_LISTED = 500

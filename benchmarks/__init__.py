"""casops measured beside what else one could take, in one run, alternating.  README.md tells how and what came out.

Must not be in this package: anything the package casops needs.
"""

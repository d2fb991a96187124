"""Mutants: the protocol with one rule broken, each of which the checkers must catch."""

"""The protocol: how an operation over documents happens exactly once.

The rules
---------
 1. An operation *i* goes through three points, each a compare-and-swap: its **intention** is
    declared, its **main values** are staged on the documents, its **result** R(i) says how it ended.
    What is written at the three is its stream log: from it anybody can tell how far it got, and finish it.
 2. An attempt is committed at the moment R(i) is `proposed` with it and every participant carries
    its stage, whether or not anybody has noticed.  So there are two steps to the answer, however
    many documents there are, and nobody waits for a third write.
 3. Answer only after every one of these k+1 writes was acknowledged (or was seen in place).
 4. A reply that did not come means *unknown*.  Whoever is in doubt, about somebody else's attempt or
    its own, does the same thing: look, and decide its fate as a stranger would (`fate.py`).
 5. Never build on a stage whose fate is not decided.
 6. An attempt that has not landed everywhere is voided in this order: move one participant that it
    still waits for (the fence), then move R(i).  Its late writes then meet a CAS that has moved.
 7. Staged bodies move into place only after R(i) says `committed`.
 8. R(i) gets its time to live last: when no document carries its stage **and** its intention is gone.
    (An intention that outlived its result would be run a second time by a sweeper.)
 9. No rule compares clocks of two machines.  Waiting is about waste, never about safety.
10. A store that can write several documents at once may have all three points in one write (`at_once.py`): only if
    there is no R(i), no intention and no stage on any document, and each document is as it was seen.

Why it is enough
----------------
Landing is one-way: a stage of a proposed attempt leaves its document only after R(i) has moved, and R(i) moves
away from a proposal only to `committed` (all landed) or after one participant was seen to have moved
on without the stage, or was moved by the fence.  A CAS never returns, so that participant can never
land any more.  Hence "everything was seen in place once" implies "nobody can have voided it",
and "somebody voided it" implies "the owner cannot have all acknowledgements".

States of R(i)
--------------
    ============ ========================= ==================================================
    state        reached from              means
    ============ ========================= ==================================================
    (none)                                 not proposed yet, or forgotten after the retention
    open         none, open, proposed      void marker: no proposal stands, the next needs CAS
    proposed     none, open, a dead one    attempt `a` is committed once all have landed
    committed    proposed, none (rule 10)  final; result is in it
    declined     none, open, a dead one    final; refusal is in it
    cancelled    none, open                final
    ============ ========================= ==================================================

The idea of an implicit commit is that of CockroachDB's parallel commits and TiKV's async commit; k+1
writes are the best known for a multi-word CAS (Guerraoui et al., DISC 2020).

The files
---------
`environment.py`  one call's way to ask, to wait and to give up        `fate.py`       meeting a stage
`execution.py`    an operation from its declaration to its answer      `settling.py`   what comes after the answer
`at_once.py`      in one write, where a store can do that              `together.py`    many of them as one
`reading.py`      readers that need not wait                           `sweeping.py`   cancel, pending, recovery
`declaring.py`    the intention: declared, taken over, withdrawn       `forgetting.py` results nobody needs any more
`participants.py` documents, and the writes that concern their stages  `limits.py`     bounds
`work.py`         what the protocol knows of business code             `ended.py`      a final answer

What they do is done by generators over casops.messages.  A generator that is closed is a worker that crashed;
nothing here may therefore do anything in a `finally` or an `except GeneratorExit`.

Must not be in this package: I/O, clocks, randomness, threads, asyncio, pydantic models of users.
"""

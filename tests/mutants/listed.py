"""The mutants: one change of one line or a few each, made to the source while it is imported.

`PROTOCOL` are those that any checker of this protocol must catch; the others we thought of, or made ourselves.
A mutant whose `old` text is not found exactly once is an error: then the protocol has changed, and this list must.

Must not be in here: imports of casops (the source is changed before it is imported).
"""

from __future__ import annotations

from dataclasses import dataclass

# Simulated worlds that once showed a bug: run by the tests, and by the hunt before all others.
KEPT_SEEDS = (256, 273, 758, 1244, 1418, 1581, 5258, 5307, 63669, 73918, 91242, 97787)

# Tests that notice what neither explorer nor simulator do.
SELDOM, SWEEPS, SHARDS = (f"tests/test_{each}.py" for each in ("protocol_seldom", "sweeps", "couchbase_intentions"))


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str  # under casops/
    old: str
    new: str
    listed: bool = True  # among the seeded bugs of the protocol's description
    tests: str = ""  # which notice it, where neither explorer nor simulator do


MUTANTS = [
    Mutant(
        "bump a proposed record of another attempt",
        "protocol/fate.py",
        """            return Fate(False, standing)
        if record.state == "open":""",
        """            bumped = record.becoming(environment.event("voided", suspect.attempt))
            if (cas := (yield from _move(environment, record_key, standing.cas, as_open(environment, bumped, "")))):
                return Fate(False, Standing(bumped, cas))
            yield from environment.tick()
            continue
        if record.state == "open":""",
    ),
    Mutant(
        "skip the fence",
        "protocol/fate.py",
        "        if all(at_base(each, documents[each.key]) for each in late):",
        "        if False:",
    ),
    Mutant(
        "fence without bumping open",
        "protocol/fate.py",
        """        if record.state == "open":
            bumped""",
        """        if record.state == "open":
            return Fate(False, standing)
            bumped""",
    ),
    Mutant(
        "build on a pending stage",
        "protocol/participants.py",
        """    if not fate.committed:
        return""",
        """    if not fate.committed and False:
        return""",
    ),
    Mutant(
        "build past a stage without deciding it",
        "protocol/participants.py",
        """    if own and meta.attempt in asker.dead:
        return before""",
        """    if not own or meta.attempt in asker.dead:
        return before""",
    ),
    Mutant(
        "answer when only the record was acknowledged",
        "protocol/execution.py",
        "        if isinstance(reply, Stored) and all(isinstance(each, Stored) for each in landed):",
        "        if isinstance(reply, Stored):",
    ),
    Mutant(
        "move bodies into place before committed",
        "protocol/settling.py",
        """    if ended.record.state == "proposed":
        standing = yield from _notice(environment, ended)
    record = standing.record
    assert record is not None
    assert record.final, "what has ended is final, once it was noticed"
""",
        """    record = standing.record
    assert record is not None
""",
    ),
    Mutant(
        "skip the re-read of a two-document refusal",
        "protocol/execution.py",
        "        if len(looked_at) < 2 and not looked_at & self.told:",
        "        if len(looked_at) < 3 and not looked_at & self.told:",
    ),
    Mutant(
        "treat unknown as failure",
        "protocol/execution.py",
        "        if isinstance(reply, Exists | Mismatch):",
        """        if isinstance(reply, Unknown):
            self._is_dead(attempt)
            return None
        if isinstance(reply, Exists | Mismatch):""",
    ),
    Mutant(
        "treat an unknown stage as lost",
        "protocol/execution.py",
        "any(isinstance(each, Exists | Mismatch | Refused) for each in landed):",
        "any(isinstance(each, Exists | Mismatch | Refused | Unknown) for each in landed):",
    ),
    Mutant(
        "treat unknown as success",
        "protocol/execution.py",
        "        if isinstance(reply, Stored) and all(isinstance(each, Stored) for each in landed):",
        "        if isinstance(reply, Stored) and all(isinstance(each, Stored | Unknown) for each in landed):",
    ),
    Mutant(
        "settle by overwriting a stage of another attempt",
        "protocol/settling.py",
        "        if meta is not None and meta.operation_id == operation_id and isinstance(each, Version):",
        "        if meta is not None and isinstance(each, Version):",
    ),
    Mutant(
        "settle whatever attempt of the operation is staged",
        "protocol/settling.py",
        'landed = record.state == "committed" and meta.attempt == record.attempt',
        'landed = record.state == "committed"',
        listed=False,
    ),
    Mutant(
        "give R(i) its time to live before the documents are settled",
        "protocol/settling.py",
        "    return standing, (yield from _settle_documents(environment, ended, record))",
        """    yield from _forget_later(environment, ended.operation_id, standing)
    return standing, (yield from _settle_documents(environment, ended, record))""",
    ),
    Mutant(
        "reuse one attempt id for two proposals",
        "protocol/execution.py",
        '        return f"{self.declaration.call}.{self.attempts}"',
        "        return self.declaration.call",
    ),
    # --- those we thought of, or made ourselves ---
    Mutant(
        "a proposal replaces a lost proposal directly",
        "protocol/execution.py",
        "        if before.cas is not None and record is not None and record.attempt in self.asker.dead:",
        "        if False:",
        listed=False,
    ),
    Mutant(
        "propose over a rival's proposal",
        "protocol/execution.py",
        """                    if not self._free():
                        yield from self._overtaken()
                        raise Moved""",
        """                    if self.standing.final:
                        raise Moved""",
        listed=False,
    ),
    Mutant(
        "void a stage without a record by looking only",
        "protocol/fate.py",
        """            opened = Record(
                operation=suspect.operation,""",
        """            return Fate(False, standing)
            opened = Record(
                operation=suspect.operation,""",
        listed=False,
    ),
    Mutant(
        "build on a stage that creates without settling it",
        "protocol/participants.py",
        "    if (found.body is None) == (value.body is None):",
        "    if True:",
        listed=False,
    ),
    Mutant(
        "a reader does not look at R(x) again",
        "protocol/reading.py",
        "        if isinstance(again, Version) and again.cas == standing.cas:",
        "        if True:",
        listed=False,
    ),
    Mutant(
        "a snapshot collects once",
        "protocol/reading.py",
        "            if one_read or now == before:",
        "            if True:",
        listed=False,
    ),
    Mutant(
        "an expiry is not taken from a staged document",
        "protocol/participants.py",
        "    return Replace(key, document.found.cas, moved, stage)",
        "    return Replace(key, document.found.cas, moved)",
        listed=False,
    ),
    Mutant(
        "settling forgets the document's own expiry",
        "protocol/participants.py",
        "        return Replace(key, version.cas, BodyOf.STAGED, expires=meta.expires)",
        "        return Replace(key, version.cas, BodyOf.STAGED)",
        listed=False,
    ),
    Mutant(
        "take over without putting one's name to the intention",
        "protocol/declaring.py",
        """            self.cas, self._intention = found.cas, decode""",
        """            return
            self.cas, self._intention = found.cas, decode""",
        listed=False,
    ),
    Mutant(
        "a late sweep starts what may have been forgotten",
        "engine.py",
        "            if sweeping.too_old_to_start(environment, each):",
        "            if False:",
        listed=False,
    ),
    Mutant(
        "refuse for what one was told",
        "protocol/execution.py",
        "        if len(looked_at) < 2 and not looked_at & self.told:",
        "        if len(looked_at) < 2:",
        listed=False,
    ),
    Mutant(
        "at once over a stage",
        "protocol/at_once.py",
        "        if any(isinstance(each, Version) and each.stage is not None for each in documents.values()):",
        "        if False:",
        listed=False,
    ),
    Mutant(
        "at once, whatever became of what was only read",
        "protocol/at_once.py",
        "AtOnce(writes, ((declared, None), *seen.items()))",
        "AtOnce(writes, ((declared, None),))",
        listed=False,
    ),
    Mutant(
        "at once what is declared",
        "protocol/at_once.py",
        "AtOnce(writes, ((declared, None), *seen.items()))",
        "AtOnce(writes, tuple(seen.items()))",
        listed=False,
    ),
    Mutant(
        "say that it did not happen without a last look",
        "protocol/execution.py",
        """        try:
            yield from self._look()
        except StoreFailed""",
        """        try:
            yield from self.environment.read([])
        except StoreFailed""",
        listed=False,
    ),
    Mutant(
        "look before the intention is withdrawn, not after",
        "protocol/execution.py",
        """        yield from drop_dead(self.environment, self.asker, self.staged)
        withdrawn = yield from self.declaration.withdraw()
        # An intention that got no reply may still be on its way, and land after all of it was removed.
        withdrawn = withdrawn and not self.declaration.in_doubt
        if isinstance(error, OperationMismatch):
            if self.declaration.in_doubt:
                stays_pending(error)
            raise error  # R(i) is of another operation, or the intention that stands
        if withdrawn and self._free():
            yield from release(self.environment, self.id, self.standing)
        try:
            yield from self._look()
        except""",
        """        yield from self._look()
        yield from drop_dead(self.environment, self.asker, self.staged)
        withdrawn = yield from self.declaration.withdraw()
        # An intention that got no reply may still be on its way, and land after all of it was removed.
        withdrawn = withdrawn and not self.declaration.in_doubt
        if isinstance(error, OperationMismatch):
            if self.declaration.in_doubt:
                stays_pending(error)
            raise error  # R(i) is of another operation, or the intention that stands
        if withdrawn and self._free():
            yield from release(self.environment, self.id, self.standing)
        try:
            yield from self.environment.read([])
        except""",
        listed=False,
    ),
    Mutant(
        "who gives up drops stages of attempts that may be committed, too",
        "protocol/participants.py",
        "meta.operation_id == asker.operation_id and meta.attempt in asker.dead:\n            assert",
        "meta.operation_id == asker.operation_id:\n            assert",
        listed=False,
    ),
    Mutant(
        "say no while the declaration is on its way",
        "protocol/execution.py",
        "        withdrawn = withdrawn and not self.declaration.in_doubt\n",
        "",
        listed=False,
    ),
    # --- what takes a coincidence that only a test makes ---
    Mutant(
        "a result that stopped one's proposal was not seen",
        "protocol/execution.py",
        """            self._is_dead(attempt)
            self.asker.known = True
""",
        """            self._is_dead(attempt)
""",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "a proposal that was sent is not in doubt",
        "protocol/execution.py",
        """        self.in_doubt = True
        reply, *landed""",
        "        reply, *landed",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "what is refused for ever did not happen, in doubt or not",
        "protocol/execution.py",
        "                if not failure.refusal.lasting or self.in_doubt:",
        "                if not failure.refusal.lasting:",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "a refusal that was sent is not in doubt",
        "protocol/execution.py",
        """            self.in_doubt = True
            yield from self.environment.after_failed(reply)
""",
        """            yield from self.environment.after_failed(reply)
""",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "what was removed leaves its expiry",
        "protocol/participants.py",
        "    expires = None if value.body is None else value.expires",
        "    expires = value.expires",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "look for the result, then for the intention",
        "protocol/sweeping.py",
        """    declared = (yield from environment.read([key]))[key]
    standing, ended = yield from _how_far(environment, operation_id)""",
        """    standing, ended = yield from _how_far(environment, operation_id)
    declared = (yield from environment.read([key]))[key]""",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "what has not landed has not ended, without a second look",
        "protocol/sweeping.py",
        "        if again.cas == standing.cas:",
        "        if True:",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "tell a failure of what never was at one instant",
        "protocol/execution.py",
        "        if not (yield from self._still_true(documents, evaluation.looked_at)):",
        """        if isinstance(evaluation, business.Refused) and not (
            yield from self._still_true(documents, evaluation.looked_at)
        ):""",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "a cancelled result has its time to live at once",
        "protocol/fate.py",
        'if record.state == "open" else None',
        'if record.state in ("open", "cancelled") else None',
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "what is taken over becomes younger",
        "protocol/declaring.py",
        "            before = replace(self.intention, call=self.call)",
        "            before = replace(self.intention, call=self.call, at=self._environment.now.wall)",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "forget where stages of what was never proposed may be",
        "protocol/fate.py",
        """                loose=suspect.participants,
""",
        "",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "nothing is forgotten before the retention is over",
        "protocol/environment.py",
        "return 0 < self.options.retention / 2 < passed",
        "return 0 < self.options.retention < passed",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "a sweep goes by a fingerprint of its own",
        "engine.py",
        """        work.fingerprint = each.intention.fingerprint
""",
        "",
        listed=False,
        tests=SELDOM,
    ),
    Mutant(
        "a full shard takes no count",
        "protocol/declaring.py",
        "            if isinstance(reply, Refused) and self._swept:",
        "            if False:",
        listed=False,
        tests=SWEEPS,
    ),
    Mutant(
        "remove whatever intention stands in the way",
        "protocol/sweeping.py",
        "        yield from environment.perform(Remove(intention_key(declared.operation_id), declared.cas))",
        """        found = yield from environment.read([intention_key(declared.operation_id)])
        for key, each in found.items():
            if not isinstance(each, Missing):
                yield from environment.perform(Remove(key, each.cas))""",
        listed=False,
        tests=SWEEPS,
    ),
    Mutant(
        "one result that the store refuses to tell ends the list",
        "protocol/sweeping.py",
        "            except (InvariantViolation, StoreFailed) as error:",
        "            except InvariantViolation as error:",
        listed=False,
        tests=SWEEPS,
    ),
    Mutant(
        "a write of an intention whose reply is lost is sent again",
        "stores/couchbase_intentions.py",
        """(Meaning.FIELD_EXISTS, Meaning.FIELD_MISSING, Meaning.TOO_LARGE):
            for""",
        """(Meaning.FIELD_EXISTS, Meaning.FIELD_MISSING, Meaning.TOO_LARGE, Meaning.UNKNOWN):
            for""",
        listed=False,
        tests=SHARDS,
    ),
    Mutant(
        "a write of one intention whose reply is lost is sent again",
        "stores/couchbase_intentions.py",
        """        if isinstance(answer, Answer) or answer.meaning is not Meaning.MISSING or not inserts:
            return answer""",
        """        if isinstance(answer, Trouble) and answer.meaning is Meaning.UNKNOWN:
            return (yield self._calls.change_fields(place, parts))
        if isinstance(answer, Answer) or answer.meaning is not Meaning.MISSING or not inserts:
            return answer""",
        listed=False,
        tests=SHARDS,
    ),
    Mutant(
        "version numbers of intentions have any number of digits",
        "stores/couchbase_intentions.py",
        "secrets.randbits(62) + 10**18",
        "secrets.randbits(62) + 1",
        listed=False,
        tests=SHARDS,
    ),
]

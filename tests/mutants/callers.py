"""Hunts mutants of what lies between fronts and a file:  python -m tests.mutants.callers [NUMBER | none]

Each is one rule of casops.callers, casops.combining, casops.conversations or of an operation at once broken once;
the worlds of tests/callers_world.py must notice.  With a number: that one alone, in this process.  Not listed: what
makes no difference that anybody is told of, such as who is not woken (and wakes after PATIENCE).

Must not be in here: imports of casops (the source is changed before it is imported).
"""

from __future__ import annotations

import faulthandler
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.mutants.hunt import Finder
from tests.mutants.listed import Mutant

WORLDS = 2_500  # seeds that are lived before a mutant has survived
SURVIVED, NOBODY = "SURVIVED", "none"
HANGS = 20.0  # seconds in which a world must have come to its end, which takes it a hundredth of one


def of(file: str, name: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"{file}.py", old, new, listed=False)


MUTANTS = [
    of(
        "conversations",
        "not asked again",
        "return (yield from _ask_again(again, failed, durable=durable))",
        "raise StoreUnavailable(failed.why)",
    ),
    of(
        "conversations",
        "unknown, and then not to be had, changed nothing",
        "isinstance(failed, Refused) and not",
        "not",
    ),
    of("conversations", "what an earlier conversation wrote is nothing", "            durable = True\n", ""),
    of(
        "conversations",
        "durable is ignored",
        "isinstance(failed, Refused) and not durable",
        "isinstance(failed, Refused)",
    ),
    of(
        "conversations",
        "unknown is refused",
        "if failed is not None and (conversation.begun or isinstance(failed, Unknown)):",
        "if failed is not None and conversation.begun:",
    ),
    of(
        "conversations",
        "refused, though it has begun, and not asked again",
        "if failed is not None and (conversation.begun or isinstance(failed, Unknown)):",
        "if isinstance(failed, Unknown):",
    ),
    of(
        "conversations",
        "whatever became of it is success",
        '(failed,) = cast("list[Refused | Unknown | None]", (yield Conversations((conversation,))))',
        '(failed,) = cast("list[Refused | Unknown | None]", (yield Conversations((conversation,))))\n'
        "            failed = None if conversation.begun else failed",
    ),
    of(
        "conversations",
        "the end of a conversation is told before it is durable",
        "            if failed is not None and (conversation",
        "            if conversation.ended:\n                return conversation.result()\n"
        "            if failed is not None and (conversation",
    ),
    of(
        "conversations",
        "a write at once is told before it is durable",
        "            if failed is not None and (conversation",
        "            if conversation.replies is not None:\n                reply = conversation.replies\n"
        "                break\n"
        "            if failed is not None and (conversation",
    ),
    of(
        "conversations",
        "the same worker goes on after a failure",
        "return (yield from _ask_again(again, failed, durable=durable))",
        "reply = [failed] * (len(request) if isinstance(request, tuple) else 1)\n                break",
    ),
    of(
        "conversations",
        "what was refused before it began is stored",
        "                reply = [failed] * len(request)\n",
        "                reply = [Stored(2)] * len(request)\n",
    ),
    of(
        "conversations",
        "who asks again is told that all is well",
        "        raise OutcomeUnknown(f",
        "        raise StoreUnavailable(f",
    ),
    of(
        "combining",
        "outcomes go to the wrong errands",
        "zip(going, wishes, strict=True)",
        "zip(reversed(going), wishes, strict=True)",
    ),
    of(
        "combining",
        "readings go to the wrong errands",
        "zip(reading, batches, strict=True)",
        "zip(reversed(reading), batches, strict=True)",
    ),
    of(
        "combining",
        "the first outcome is everybody's",
        "errand.tell([next(outcomes) for _ in wish])",
        "first = locals().setdefault('f', list(outcomes)) if wish is wishes[0] else first\n"
        "                errand.tell([first[0] for _ in wish])",
    ),
    of(
        "combining",
        "what was not told is taken for refused",
        "_NOT_TOLD: Final = Unknown(",
        "from casops.messages import Refused\n_NOT_TOLD: Final = Refused(",
    ),
    of(
        "combining",
        "what was not told is taken for done",
        "self.tell([_NOT_TOLD for _ in self.wish.all])",
        "self.tell([None for _ in self.wish.all])",
    ),
    of(
        "combining",
        "a write that failed is written again as it is",
        "            self.tell([_NOT_TOLD for _ in self.wish.all])\n",
        "            pass\n",
    ),
    of(
        "combining",
        "who has to write alone goes with the others",
        "self.over = not (isinstance(wish, Conversations) or reads(wish))",
        "self.over = False",
    ),
    of(
        "combining",
        "not in the context of its caller",
        "self._context.run(self._steps.send, self._reply)",
        "self._steps.send(self._reply)",
    ),
    of(
        "combining",
        "what it raises is everybody's",
        "        except BaseException as error:  # noqa: BLE001 - of business code\n            self.ends(error=error)",
        "        except ZeroDivisionError:\n            raise",
    ),
    of("combining", "nobody is asked whether they may be asked for", "if not may(asking):", "if False:"),
    of(
        "combining",
        "what is wished is forgotten when it goes on alone",
        "            if self.wish is not None:\n                self.tell((yield self.wish))",
        "            self.wish = None",
    ),
    of(
        "callers",
        "who is in somebody's hands may leave them",
        "            self._calls.clear()\n\n    def _may",
        "            for call in lead.hands:\n                call.over = True\n"
        "                call.bell.set()\n            self._calls.clear()\n\n    def _may",
    ),
    of(
        "callers",
        "a leader that is cancelled says nothing",
        "        for call in lead.hands:\n            call.fails()\n        self._stop(lead)\n        self._may",
        "        self._stop(lead)\n        self._may",
    ),
    of(
        "callers",
        "a leader that fails says nothing (tasks)",
        "                log.debug(FAILED, exc_info=True)\n                for call in lead.hands:\n"
        "                    call.fails()\n            finally",
        "                log.debug(FAILED, exc_info=True)\n            finally",
    ),
    of(
        "callers",
        "who leaves a hanging one is told that nothing happened",
        "raise OutcomeUnknown(HELD, operation_id=operation_id) from None",
        "raise __import__('casops').StoreUnavailable(HELD, operation_id=operation_id) from None",
    ),
    of(
        "callers",
        "a leader that fails says nothing (threads)",
        "                    for call in lead.hands:\n                        call.fails()\n                self._may",
        "                self._may",
    ),
    of(
        "callers",
        "who leads no more goes on (threads)",
        "            return leads\n\n\nclass _AsyncCall",
        "            return True\n\n\nclass _AsyncCall",
    ),
    of(
        "callers",
        "who leads no more goes on, too (tasks)",
        "            self._calls.pop(call, None)\n        return leads",
        "            self._calls.pop(call, None)\n        return True",
    ),
    of(
        "callers",
        "who is in somebody's hands waits in the line, too (threads)",
        "                self._calls.pop(call, None)  # it is not there if its caller was interrupted\n",
        "                pass\n",
    ),
    of(
        "callers",
        "who waits in a line does not look who leads",
        "                        self._see_who_leads()",
        "                        pass",
    ),
    of(
        "callers",
        "who is alone is left to others, too",
        "return drive(call.rest(), self._store, operation_id=operation_id, begun=call.begun)",
        "return drive(call._steps, self._store, operation_id=operation_id, begun=call.begun)",
    ),
    of(
        "protocol/at_once",
        "at once over a stage",
        "if any(isinstance(each, Version) and each.stage is not None for each in documents.values()):",
        "if False:",
    ),
    of(
        "protocol/at_once",
        "at once, whatever became of what was only read",
        "((declared, None), *seen.items())",
        "((declared, None),)",
    ),
    of("protocol/at_once", "at once what is declared", "((declared, None), *seen.items())", "tuple(seen.items())"),
    of(
        "protocol/at_once",
        "a refusal for what may have changed",
        "evaluation.changes if isinstance(evaluation, business.Success) else evaluation.looked_at",
        "evaluation.changes if isinstance(evaluation, business.Success) else ()",
    ),
    of(
        "protocol/at_once",
        "at once what failed is an answer",
        "if isinstance(reply, Stored):",
        "if not isinstance(reply, Unknown | Refused):",
    ),
    of(
        "protocol/at_once",
        "foresight for other documents",
        "if self._seen is None or self._seen[0] != values:",
        "if self._seen is None:",
    ),
]


def hunt(mutant: Mutant | None) -> str:
    """What noticed it.  None: the source as it is."""
    if mutant is not None:
        sys.meta_path.insert(0, Finder(mutant))
    from tests.callers_world import Seeded, World
    from tests.test_callers_world import SMALL, schedules, some_plan

    seldom = SMALL["a refusal during a transfer"]
    for scripted in schedules(seldom):
        try:
            World(seldom, scripted).run()
        except Exception as error:  # noqa: BLE001
            return f"a refusal during a transfer: {type(error).__name__}: {error}"
    for seed in range(WORLDS):
        faulthandler.dump_traceback_later(HANGS, exit=True)
        try:
            World(some_plan(seed), Seeded(seed)).run()
        except Exception as error:  # noqa: BLE001 - a mutant may break anything
            return f"world {seed}: {type(error).__name__}: {error}"
    return SURVIVED


def noticed(number: int | str) -> str:
    command = [sys.executable, "-m", "tests.mutants.callers", str(number)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if not ran.stdout and "Timeout" not in ran.stderr:
        raise SystemExit(ran.stderr)
    return (ran.stdout.strip().splitlines() or ["a world does not come to its end"])[-1][:110]


def main() -> int:
    if len(sys.argv) > 1:
        sys.stdout.write(hunt(None if sys.argv[1] == NOBODY else MUTANTS[int(sys.argv[1])]) + "\n")
        return 0
    if noticed(NOBODY) != SURVIVED:
        raise SystemExit(f"the worlds find something without any mutant: {noticed(NOBODY)}")
    survived = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, by in zip(MUTANTS, pool.map(noticed, range(len(MUTANTS))), strict=True):
            survived += by == SURVIVED
            sys.stdout.write(f"{mutant.file:22} {mutant.name:58} {by}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(MUTANTS)} mutants, {survived} survived\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

"""Hunts the client's mutants:  python -m tests.mutants.client [NUMBER]

Each is one rule of the client broken once; the tests that need neither sockets nor processes must notice.
With a number: that one alone, in this process, with what pytest says.

Must not be in here: imports of casops (the source is changed before it is imported).
"""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.mutants.hunt import Finder
from tests.mutants.listed import Mutant

TESTS = tuple(f"tests/test_client_{each}.py" for each in ("parts", "asking", "pending_list", "handing_over"))


def of(file: str, name: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"client/{file}.py", old, new, listed=False)


HANDED_OVER = "execute(operation, operation_id=operation_id)"

MUTANTS = [
    of("asking", "give a server up at the first failure", "GIVEN_UP_AFTER = 2", "GIVEN_UP_AFTER = 1"),
    of("asking", "ask the same server three times", "GIVEN_UP_AFTER = 2", "GIVEN_UP_AFTER = 3"),
    of(
        "asking",
        "another server for the retry",
        "trial.stay = trial.failures < GIVEN_UP_AFTER\n        if not trial.stay:",
        "if trial.failures >= GIVEN_UP_AFTER:",
    ),
    of("asking", "no connection is like a time-out", "        if fate.sent:\n", "        if True:\n"),
    of("asking", "a broken connection is certain", "        if fate.sent:\n", "        if False:\n"),
    of(
        "asking",
        "a wait cut short is a time-out",
        "if self._now < self._ends:\n                self._desk",
        "if True:\n                self._desk",
    ),
    of("asking", "the deadline is forgotten", "if self._now >= self._ends or (", "if False or ("),
    of("asking", "give up though an answer may come", "return self._entry.out > 0", "return False"),
    of("asking", "messages without bound", "len(self._sent) >= self._desk.options.messages", "False"),
    of("asking", "Retry-After is not obeyed", "else max(fate.pause, self._least_pause()))", "else 0.0)"),
    of("asking", "Retry-After: 0 is obeyed", "max(fate.pause, self._least_pause())", "fate.pause"),
    of("asking", "wait beyond the deadline", "if each.not_before < self._ends}", "if True}"),
    of("asking", "in progress: ask another", 'trial.stay = trial.free = fate.again == "here"', "pass"),
    of(
        "asking",
        "too busy: stay there",
        'trial.stay = trial.free = fate.again == "here"',
        "trial.stay = trial.free = True",
    ),
    of("asking", "retries cost nothing", "if self._desk.budget.take(self._now):", "if True:"),
    of("asking", "every retry costs", "if trial.free or all(", "if all("),
    of(
        "asking",
        "what was never sent costs",
        "if trial.free or all(isinstance(each.fate, Lost) and not each.fate.sent for each in self._sent)",
        "if trial.free or not self._sent",
    ),
    of(
        "asking",
        "a late refusal does not count",
        "while self._entry.answer is None:\n            self._raise_refusal()",
        "while self._entry.answer is None:\n            pass",
    ),
    of("asking", "did not happen, though one is out", "certain = self._entry.out == 0 and", "certain = True and"),
    of("asking", "did not happen, though one was lost", "and not self._entry.uncertain", ""),
    of("asking", "an unknown outcome becomes contended", "(unknown or told)[-1]", "told[-1]"),
    of("asking", "told, though one had no reply", "if told and all(", "if told and any("),
    of("asking", "a server that came back is not asked", "known.comebacks != server.comebacks", "False"),
    of("asking", "no jitter", "max(0.0, self._ends - until)) / 2", "max(0.0, self._ends - until)) * 0"),
    of("asking", "retries wait no longer", ".timeout(trial.failures)", ".timeout()"),
    of(
        "asking",
        "the application is not told",
        "self._desk.suspect(trial.server, why",
        "trial.server.suspect() or (lambda *_: 0)(trial.server, why",
    ),
    of("desk", "any reply counts", "if is_reply_to(message.id, headers):", "if True:"),
    of("desk", "message ids are used twice", "self._numbers += 1", "self._numbers = 1"),
    of("desk", "retries are not marked", "str(concern.sent)", '"0"'),
    of("desk", "the second answer wins", "        if entry.answer is None:\n", "        if True:\n"),
    of("desk", "different answers are no matter", "elif canonical(entry.answer) == canonical(answer):", "elif True:"),
    of("asking", "did not happen, though a server was at it", " and not self._entry.begun", ""),
    of("desk", "a server that was at it is forgotten", "concern.begun |= fate.begun", "pass"),
    of("pending", "an error settles it for everybody", "(entry.answer is not None or entry.calls == 0)", "True"),
    of("pending", "given up while a server was at it", " and (entry.answer is not None or not entry.begun)", ""),
    of(
        "pending",
        "acknowledge nothing that was slow",
        "(entry.answer is not None or not entry.begun)",
        "not entry.begun",
    ),
    of("desk", "a lost message is forgotten", "concern.uncertain = True", "pass"),
    of("desk", "a lost acknowledgement stays lost", "self.acknowledgements.give_back(message.acknowledges)", "pass"),
    of("desk", "acknowledge while one is out", "if self.table.all_replied(operation_id):", "if True:"),
    of(
        "desk",
        "late answers are not measured",
        "not isinstance(fate, Told):",
        "not isinstance(fate, Told) and not late:",
    ),
    of("desk", "late is in time", "late = now > message.due", "late = False"),
    of("desk", "messages in flight are not counted", "message.server.in_flight += 1", "pass"),
    of("desk", "a late answer is lost", "entry.answer = answer\n", "entry.answer = answer if entry.calls else None\n"),
    of("desk", "a comeback wakes nobody", "for entry in self.table:  #", "for entry in ():  #"),
    of(
        "pending", "an id may change its arguments", "elif entry.asked.fingerprint != asked.fingerprint:", "elif False:"
    ),
    of("pending", "the table is without bound", "if len(self._entries) >= self._options.table:", "if False:"),
    of("pending", "entries go while messages are out", "if entry.calls or entry.out or not", "if entry.calls or not"),
    of("pending", "entries go unanswered", "entry.out or not entry.delivered or", "entry.out or"),
    of(
        "pending",
        "lost messages are forgotten with the entry",
        "uncertain=not self._ended.get(operation_id, True)",
        "uncertain=False",
    ),
    of(
        "servers",
        "a late server is up",
        'self.state, self._in_time = "slow", int(not late)',
        'self.state, self._in_time = "up", 0',
    ),
    of("servers", "slow for ever", "if self._in_time >= self._options.recovered_after:", "if False:"),
    of("servers", "one answer makes it good", "if self._in_time >= self._options.recovered_after:", "if True:"),
    of(
        "servers",
        "late answers do not count against it",
        "        elif late:\n            self._in_time = 0",
        "        elif late:\n            pass",
    ),
    of("servers", "slow servers get no work", "first = slow_first and", "first = False and"),
    of("servers", "suspects like all others", '"slow": 1, "suspect": 2', '"slow": 1, "suspect": 0'),
    of(
        "servers",
        "probes never slow down",
        "doublings = min(max(self.suspicions - 1, 0), MOST_DOUBLINGS)",
        "doublings = 0",
    ),
    of("probing", "probed for ever", 'if server.state != "suspect":', "if False:"),
    of("probing", "probes at one distance", "pause = min(pause * 2, desk.options.probe_at_most)", "pass"),
    of("probing", "never back", "desk.probed(server)", "pass"),
    of("timing", "the average alone", "self.smoothed + 4 * self.deviation", "self.smoothed"),
    of("timing", "no least time-out", "base = max(base, options.least_timeout)", "pass"),
    of("timing", "no most time-out", ", options.most_timeout)", ", 1e9)"),
    of("timing", "the deviation moves too fast", "0.75 * self.deviation + 0.25 *", "0.5 * self.deviation + 0.5 *"),
    of(
        "budget",
        "more than the burst",
        "self._tokens = min(float(self._options.retry_burst), self._tokens + tokens)",
        "self._tokens += tokens",
    ),
    of("budget", "never refilled by time", "max(0.0, now - self._at) * self._options.retry_rate", "0.0"),
    of("replies", "replays look new", '_header(headers, REPLAYED) == "true"', "False"),
    of("replies", "contended, so it did not happen", "if told.happened is False and not said_no:", "if False:"),
    of("replies", "what is not denied did not happen", "begun = not said_no", "begun = False"),
    of("replies", "a new problem is final", "(said_no and 400 <= status < 500", "(400 <= status < 500"),
    of("replies", "a new problem is no problem", 'and problem.get("retry") is not True)', ")"),
    of("replies", "an answer about any operation", "decode_id(named) == operation_id", "True"),
    of("replies", "an outcome of any operation", "if named != operation_id and (", "if False and ("),
    of("replies", "an outcome without its result", "needed not in members or (", "False or ("),
    of("asking", "who does not know it is asked again", 'trial.given_up = fate.again == "others"', "pass"),
    of(
        "replies",
        "0 is nothing",
        'return Answer("applied", result,',
        'return Answer("applied", result if json.loads(body) else "null",',
    ),
    of(
        "replies",
        "1 is 1.0",
        "json.loads(answer.result), answer.code",
        "json.loads(answer.result, parse_int=float), answer.code",
    ),
    of("acknowledging", "headers without bound", "if size > MOST_BYTES:", "if False:"),
    of("looking", "one server is enough", "left.remove(server)", "left.clear()"),
    of("aging", "asked again until it is forgotten", "abs(age) > retention / 2", "abs(age) > retention"),
    of("aging", "a clock that was set back is right", "if abs(age) >", "if age >"),
    of("aging", "asked again, whatever the retention", "if entry.earlier:", "if False:"),
    of("aging", "an answer that is there may be too old", "entry.answer is None and", ""),
    of("aging", "ids that tell their time may be too old", " and time_of(entry.asked.operation_id) is None", ""),
    of("pending", "an earlier life is forgotten", "uncertain=True, earlier=True", "uncertain=True"),
    Mutant("nobody was asked, so it did not happen", "errors.py", "error.happened = None", "pass", listed=False),
    of("desk", "the longest retention counts", "told < self.retention", "told > self.retention"),
    of("replies", "for ever is no time", 'float(text) or float("inf")', "float(text)"),
    of(
        "async_client",
        "nobody is asked for the retention",
        "if entry.earlier and self._desk",
        "if False and self._desk",
    ),
    of("async_client", "what is too old goes off the list", "settled = noted and not error", "settled = not error"),
    of(
        "async_client",
        "acknowledged ids may be asked again",
        "self._desk.renounce(check_id(operation_id))",
        "check_id(operation_id)",
    ),
    of("pending_list", "servers forget what the disk still names", "self._ended.append(then)", "then()"),
    of("pending_list", "a failed call takes acknowledgements along", "self._ended.extendleft(reversed(ended))", "pass"),
    of(
        "pending_list",
        "a call that was not noted is sent",
        "            elif not noted:\n",
        "            elif False:\n",
    ),
    of("pending_list", "any number waits for the disk", "if self._asking >= MOST_UNWRITTEN:", "if False:"),
    of(
        "pending_list",
        "the file is let go of under who writes",
        "closing = self._writing.run(self._file.close)",
        "self._file._let_go(); closing = self._writing.run(self._file.close)",
    ),
    of(
        "pending_file",
        "what was not sent stays on the list",
        "                with contextlib.suppress(OSError):\n                    os.ftruncate(self._file, before)",
        "                pass",
    ),
    of(
        "pending_file",
        "trusted after a failed write",
        "whole, self._trusted = not self._trusted, False  # until",
        "whole = not self._trusted  # until",
    ),
    of(
        "pending_file",
        "a full disk costs all of the list",
        "self._trusted or isinstance(error, _Unchanged)",
        "self._trusted",
    ),
    of(
        "pending_file",
        "a list that cannot be tidied is none",
        "self._dead //= 2  # another time\n            return False",
        "raise",
    ),
    of("pending_file", "written anew in vain all the time", "if began < self._not_before:", "if False:"),
    of("desk", "nobody notes that a server answers", "                self.heard = now\n", "                pass\n"),
    of("recovering", "a list takes any time", "if silence >= deadline:", "if False:"),
    of(
        "recovering",
        "another operation is asked for",
        "fingerprint != asked.fingerprint:",
        "fingerprint is None:",
    ),
    of("looking", "a server that is at it is no matter", "is not None or not unsure)", "is not None or True)"),
    of("client", "handed over before its caller has it", "hold(operation, operation_id, held)", HANDED_OVER),
    of("async_client", "a shared answer is new to all", "entry.answer.replayed or entry.taken)", "False)"),
    of("async_client", "closing ends with who waits for it", "asyncio.shield(self._closing)", "self._closing"),
    of("async_client", "what never began is on its way", "if message.fate is None:  #", "if False:  #"),
    of("pending_list", "what was not sent is closed with the list", "if new and not noted:", "if False:"),
    of("async_client", "no for good, whatever the list says", "if final is not None:", "if False:"),
    of("async_client", "a broken connection ends a recovery", "for pause in (0.0, *LOOKS):", "for pause in (0.0,):"),
    of("pending_file", "an end that failed waits for the next call", "is None and self._trusted:", "is None:"),
    of(
        "pending_file",
        "an end that failed is lost by closing",
        "            if not self._trusted:\n",
        "            if False:\n",
    ),
    of("pending_file", "ends are not brought to the disk", "if sync and not self._synced:", "if sync and line:"),
    of("pending_file", "the list may be gone", "((self._path, self._file), (", "(("),
    of("pending_file", "the lock may be gone", ", (self._guard_path, self._guard))", ",)"),
    of(
        "pending_file",
        "what could not be noted is pending",
        "                if not known:\n",
        "                if False:\n",
    ),
    of(
        "pending_file",
        "what was noted before is not pending",
        "                if not known:\n",
        "                if True:\n",
    ),
    of("pending_file", "a file that became nothing takes room", "os.unlink(fresh)", "pass"),
]


def caught(number: int) -> str | None:
    """What noticed it; None: nothing did."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.mutants.client", str(number)], capture_output=True, text=True, check=False
    )
    failed = [line for line in ran.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if ran.returncode not in (0, 1, 2):
        raise SystemExit(ran.stdout[-2000:] + ran.stderr[-2000:])
    return failed[0][:110] if failed else None


def hunt(mutant: Mutant) -> int:
    sys.meta_path.insert(0, Finder(mutant))
    import pytest

    return pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=line", *TESTS])


def main() -> int:
    if len(sys.argv) > 1:
        return hunt(MUTANTS[int(sys.argv[1])])
    if subprocess.run([sys.executable, "-m", "pytest", "-q", *TESTS], check=False).returncode:
        raise SystemExit("the tests fail without any mutant")
    survived = 0
    with ThreadPoolExecutor(2) as pool:
        for mutant, by in zip(MUTANTS, pool.map(caught, range(len(MUTANTS))), strict=True):
            survived += by is None
            sys.stdout.write(f"{mutant.file:26} {mutant.name:48} {by or 'SURVIVED'}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(MUTANTS)} mutants, {survived} survived\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())

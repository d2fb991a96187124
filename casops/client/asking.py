"""One call: what is sent to whom, how long is waited, what a reply means for it.

The rules
---------
 1. The server that is asked first is one that is well (servers.py).
 2. First time-out, or a connection that broke: the same server again, marked as a retry.  Earlier messages are left
    running: whichever is answered first answers the call.
 3. Second: the server is suspect, the application is told, the next server is asked.
 4. No connection: certain that nothing was sent.  The server is suspect at once, the next one is asked.
 5. "Still in progress": the same server again, when it says.  "Too busy", "store away": another server at once, this
    one when it says.  "I do not know this operation": another server, this one no more.
 6. No server left: as long as messages are out their answers are waited for, and a server that comes back is asked
    again; then OutcomeUnknown.  Nothing outlasts the deadline.
 7. Every repetition takes a token of the retry budget, but for those that a server asked for (5, the same server) and
    those of which nothing had been sent (4).
 8. "It did not happen" is said only if no message of this operation can still reach a server.

Must not be in here: I/O, clocks, randomness; anything that outlives the call (desk.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from casops.client.desk import Desk
from casops.client.messages import Lost, Message, Send, Steps, Told, Wait
from casops.client.pending import Entry
from casops.client.servers import Server
from casops.errors import CasOpsError, OutcomeUnknown

# Failures (time-outs, broken connections) of one server before it is given up.
GIVEN_UP_AFTER = 2

# Seconds: the longest wait that grows by itself (`ClientOptions.pause`, doubled).
LONGEST_PAUSE = 1.0


@dataclass(eq=False)
class Trial:
    """One server, as this call has found it since it last came back."""

    server: Server
    comebacks: int
    failures: int = 0
    given_up: bool = False
    not_before: float = 0.0
    stay: bool = False
    """The next message goes here again."""
    free: bool = False
    """It asked for the next message itself."""


class Asking:
    """One call for the operation of an entry.  `run` ends when the entry has its answer, or raises."""

    def __init__(self, desk: Desk, entry: Entry, now: float) -> None:
        self._desk = desk
        self._entry = entry
        self._now = now
        self._ends = now + desk.options.deadline
        self._trials: dict[Server, Trial] = {}
        self._sent: list[Message] = []
        self._slow_first = desk.servers.try_slow()
        self._doublings = 0
        desk.counters.calls += 1
        desk.budget.asked()

    def run(self) -> Steps[None]:
        """Raises what a local call would raise, or OutcomeUnknown."""
        while self._entry.answer is None:
            self._raise_refusal()
            trial = self._choose()
            if self._now >= self._ends or (trial is None and not self._may_change()):
                raise self._given_up()
            if trial is None:
                yield from self._wait(self._ends)
            elif trial.not_before > self._now:
                yield from self._wait(trial.not_before)
            elif not self._may_send(trial):
                yield from self._wait(min(self._ends, self._desk.budget.ready_at(self._now)))
            else:
                yield from self._try(trial)

    # --- whom to ask ------------------------------------------------------------------------

    def _choose(self) -> Trial | None:
        """The server to ask next, now or when its time has come.  None: there is none left."""
        for server in self._desk.servers.all:
            known = self._trials.get(server)
            if known is None or known.comebacks != server.comebacks:
                self._trials[server] = Trial(server, server.comebacks)
        left = {server: each for server, each in self._trials.items() if not each.given_up}
        left = {server: each for server, each in left.items() if each.not_before < self._ends}
        if len(self._sent) >= self._desk.options.messages or not left:
            return None
        for each in left.values():
            if each.stay:
                return each
        ready = {server: each for server, each in left.items() if each.not_before <= self._now}
        best = self._desk.servers.best(ready, slow_first=self._slow_first)
        return left[best] if best else min(left.values(), key=lambda each: each.not_before)

    def _may_send(self, trial: Trial) -> bool:
        if trial.free or all(isinstance(each.fate, Lost) and not each.fate.sent for each in self._sent):
            return True
        if self._desk.budget.take(self._now):
            return True
        self._desk.counters.held_back += 1
        return False

    def _may_change(self) -> bool:
        """Whether anything can still come without our doing: a late reply."""
        return self._entry.out > 0

    # --- one message ------------------------------------------------------------------------

    def _try(self, trial: Trial) -> Steps[None]:
        trial.stay = trial.free = False
        message = self._desk.message(self._entry, trial.server)
        self._sent.append(message)
        self._now = yield Send(message)
        patience = trial.server.trips(self._entry.kind).timeout(trial.failures)
        message.due = self._now + patience
        until = min(message.due, self._ends)
        while message.fate is None and self._entry.answer is None and self._now < until:
            self._raise_refusal()
            self._now = yield Wait(until)
        if self._entry.answer is not None:
            return
        if message.fate is None:
            if self._now < self._ends:
                self._desk.counters.timeouts += 1
                self._failed(trial, f"no answer within {patience:.3g} s, for the second time")
        elif isinstance(message.fate, Lost):
            self._lost(trial, message.fate)
        elif isinstance(message.fate, Told) and message.fate.again != "never":
            self._told(trial, message.fate)

    def _failed(self, trial: Trial, why: str) -> None:
        trial.failures += 1
        trial.stay = trial.failures < GIVEN_UP_AFTER
        if not trial.stay:
            self._give_up(trial, why)

    def _lost(self, trial: Trial, fate: Lost) -> None:
        if fate.sent:
            self._failed(trial, fate.why)
            trial.not_before = self._now + self._pause()
        else:
            self._give_up(trial, f"no connection: {fate.why}")

    def _told(self, trial: Trial, fate: Told) -> None:
        trial.not_before = self._now + (self._pause() if fate.pause is None else max(fate.pause, self._least_pause()))
        trial.stay = trial.free = fate.again == "here"
        trial.given_up = fate.again == "others"  # it is well: it only cannot do this

    def _give_up(self, trial: Trial, why: str) -> None:
        trial.given_up = True
        self._desk.suspect(trial.server, why, self._entry.asked.operation_id)

    def _pause(self) -> float:
        pause = min(self._desk.options.pause * float(1 << min(self._doublings, 10)), LONGEST_PAUSE)
        self._doublings += 1
        return pause

    def _least_pause(self) -> float:
        """A server that says "at once" for ever is not taken at its word."""
        return min(self._desk.options.pause, LONGEST_PAUSE)

    def _wait(self, until: float) -> Steps[None]:
        spread = min(self._desk.options.pause, max(0.0, self._ends - until)) / 2
        self._now = yield Wait(until, spread)

    # --- how it ends ------------------------------------------------------------------------

    def _raise_refusal(self) -> None:
        """An error that asking again does not change, whichever of our messages brought it."""
        for each in self._sent:
            if isinstance(each.fate, Told) and each.fate.again == "never":
                raise self._true(each.fate.error)

    def _given_up(self) -> CasOpsError:
        operation_id = self._entry.asked.operation_id
        fates = [each.fate for each in self._sent]
        if fates and all(isinstance(fate, Lost) and not fate.sent for fate in fates):
            reasons = "; ".join(
                f"{each.server.url}: {each.fate.why}" for each in self._sent if isinstance(each.fate, Lost)
            )
            return OutcomeUnknown(
                f"no server could be reached, and nothing was sent by this call ({reasons}); "
                "ask again later with the same id",
                operation_id=operation_id,
            )
        told = [fate for fate in fates if isinstance(fate, Told)]
        if told and all(isinstance(fate, Told) or (isinstance(fate, Lost) and not fate.sent) for fate in fates):
            # The least certain of them: "contended" does not undo an "outcome unknown" before it.
            unknown = [fate for fate in told if fate.error.happened is None]
            return self._true((unknown or told)[-1].error)
        servers = ", ".join(dict.fromkeys(each.server.url for each in self._sent))
        last = "".join([f"; of the last: {fate.why}" for fate in fates if isinstance(fate, Lost)][-1:])
        return OutcomeUnknown(
            f"no answer from {servers or 'any server'} ({len(self._sent)} requests{last}); "
            "ask again later with the same id",
            operation_id=operation_id,
        )

    def _true(self, error: CasOpsError) -> CasOpsError:
        """The error, unless a message that is still on its way could make it false."""
        certain = self._entry.out == 0 and not self._entry.uncertain and not self._entry.begun
        if error.happened is False and not certain:
            error.happened, error.retry = None, True
            error.add_note(
                "An earlier request for this operation may still reach a server; ask again with the same id."
            )
        return error

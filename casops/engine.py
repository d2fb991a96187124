"""All that casops can be asked for, as generators: what both fronts have in common.

Must not be in here: I/O, threads, asyncio.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Generator, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from casops.business import OperationWork, decode_result
from casops.conversations import Wish, at_once
from casops.documents import D, Document, Ref, check_ref, load
from casops.errors import (
    CasOpsError,
    Declined,
    InvariantViolation,
    OperationMismatch,
    OutcomeUnknown,
    StoreUnavailable,
    UsageError,
    text_of,
)
from casops.ids import check_id
from casops.messages import Key, Steps, Version
from casops.operations import Operation, know, result_adapter
from casops.options import Options
from casops.outcome import Outcome, Pending, Recovery, Snapshot
from casops.protocol import forgetting, reading, sweeping
from casops.protocol.at_once import Foresight
from casops.protocol.ended import Ended
from casops.protocol.environment import Environment, StoreFailed, TimeUp
from casops.protocol.execution import Execution
from casops.protocol.limits import MAX_FORGOTTEN
from casops.protocol.settling import put_away, settle_documents
from casops.protocol.sweeping import Declared
from casops.protocol.together import together
from casops.running import check_not_running
from casops.validating import misfit

R = TypeVar("R")
T = TypeVar("T")


class Engine:
    """What both fronts know: options, the worker's name, the operations of this process."""

    def __init__(self, options: Options, operations: Iterable[type[Operation[Any]]], worker: str) -> None:
        if not isinstance(options, Options):
            raise UsageError(f"options are given as Options(…), not as {options!r:.80}")
        self.options = options
        self.worker = check_id(worker, "a worker's name")
        self._operations: dict[str, type[Operation[Any]]] = {}
        self._swept: set[str] = set()  # what sweeps are at: where a function hangs in one, the next passes by
        for operation in operations:
            self.register(operation)

    def register(self, operation: type[Operation[Any]]) -> None:
        """Know an operation by its name.  Raises as casops.operations.know does."""
        know(self._operations, operation)

    def check_not_running(self) -> None:
        """Raise UsageError where a business function asks the front that runs it."""
        check_not_running(self)

    def environment(self) -> Environment:
        return Environment(self.options, self.worker)

    # --- what callers ask for ---------------------------------------------------------------

    def work(self, operation: Operation[R], operation_id: str) -> OperationWork[R]:
        work = OperationWork(operation, check_id(operation_id), self)
        self.register(type(operation))
        return work

    def execute(
        self,
        work: OperationWork[R],
        operation_id: str,
        *,
        foresight: Foresight | None = None,
        behind: frozenset[Key] = frozenset(),
    ) -> Steps[tuple[Outcome[R], Ended]]:
        execution = Execution(self.environment(), operation_id, work)
        ended = yield from execution.run(foresight=foresight, behind=behind)
        if ended.replayed:
            work.check_replayed()
        return self._outcome(ended, work), ended

    def execute_at_once(
        self, work: OperationWork[R], operation_id: str
    ) -> Generator[Wish, Any, tuple[Outcome[R], Ended | None]]:
        """As execute, for a ConversingStore.  None instead of what is to be settled: it is."""
        foresight = Foresight(work)
        return at_once(
            lambda: self._execute_and_settle(work, operation_id, foresight), lambda: self.execute(work, operation_id)
        )

    def _execute_and_settle(
        self, work: OperationWork[R], operation_id: str, foresight: Foresight
    ) -> Steps[tuple[Outcome[R], Ended | None]]:
        outcome, ended = yield from self.execute(work, operation_id, foresight=foresight)
        unsettled: Ended | None = None
        if not ended.put_away:
            try:
                yield from self.settle(ended)
            except Exception:  # noqa: BLE001 - settling is a courtesy; the answer stands
                unsettled = ended
        return outcome, unsettled

    def outcome(self, operation_id: str) -> Steps[Outcome[Any] | Pending | None]:
        found = yield from self._asking(sweeping.look_up(self.environment(), check_id(operation_id)), operation_id)
        if isinstance(found, Ended):
            return self._outcome(found)
        return None if found is None else self._pending(found)

    def read(self, ref: Ref[D]) -> Steps[D | None]:
        check_ref(ref)
        body = yield from self._asking(reading.read_document(self.environment(), ref.key))
        return None if body is None else load(ref.model, ref.key, body)

    def snapshot(self, refs: Sequence[Ref[Any]]) -> Steps[Snapshot]:
        if isinstance(refs, Ref):
            raise UsageError(f"a list of references is needed, not one: {refs!r:.80}")
        models: dict[Key, type[Document]] = {}
        for ref in refs:
            check_ref(ref)
            if models.setdefault(ref.key, ref.model) is not ref.model:
                raise UsageError(
                    f"{ref.key} is asked for both as {models[ref.key].__name__} and as {ref.model.__name__}"
                )
        bodies = yield from self._asking(reading.read_snapshot(self.environment(), list(models)))
        return Snapshot(
            {
                key: (model, None if (body := bodies[key]) is None else load(model, key, body))
                for key, model in models.items()
            }
        )

    def pending(self) -> Steps[list[Pending]]:
        listed = yield from self._asking(sweeping.list_declared(self.environment()))
        return [self._pending(each, each.unreadable or "") for each in listed if not each.ended]

    def cancel(self, operation_id: str) -> Steps[tuple[Outcome[Any], Ended]]:
        steps = sweeping.cancel(self.environment(), check_id(operation_id))
        ended = yield from self._asking(steps, operation_id, writes=True)
        return self._outcome(ended), ended

    def settle(
        self, ended: Ended, documents_done: Callable[[Mapping[Key, Version]], None] | None = None
    ) -> Steps[None]:
        """Put away an operation that has ended.  Raises TimeUp or StoreFailed: left to a sweep.

        `documents_done` is called when no document carries a stage of it any more, before its records are put away,
        with the documents as they are then, as far as that is known.
        """
        environment = self.environment()
        standing, documents = yield from settle_documents(environment, ended)
        if documents_done is not None:
            documents_done(documents)
        yield from put_away(environment, ended.operation_id, standing)

    def forget(self, operation_ids: Sequence[str]) -> Steps[int]:
        if isinstance(operation_ids, str):
            raise UsageError(f"a list of ids is needed, not one text: [{operation_ids!r:.80}]")
        ids = [check_id(each) for each in operation_ids]
        if len(ids) > MAX_FORGOTTEN:
            raise UsageError(f"at most {MAX_FORGOTTEN} results can be forgotten by one call, not {len(ids)}")
        return (yield from self._asking(forgetting.forget(self.environment(), ids)))

    def recover(self, busy: Container[str] = ()) -> Steps[Recovery]:
        """One sweep over all intentions older than the grace period."""
        environment = self.environment()
        listed = yield from self._asking(sweeping.list_declared(environment))
        ended: list[Declared] = []
        others: list[Declared] = []
        for each in listed:
            (ended if each.ended and not self._young(environment, each) else others).append(each)
        finished: list[Outcome[Any]] = []
        left = yield from self._settle_together(ended)
        settled = len(ended) - len(left)
        # What sweeps have failed at comes last: it may take the whole process with it.
        for each in sorted(others, key=lambda each: each.intention.failures if each.intention else 0):
            id = each.operation_id
            if (id in busy or id in self._swept) and not each.ended:
                left.append(self._pending(each, "being worked on here"))
                continue
            self._swept.add(id)
            try:
                done = yield from self._recover_one(environment, each)
            finally:
                self._swept.discard(id)
            if isinstance(done, Outcome):
                finished.append(done)
            else:
                left.append(done)
        return Recovery(settled, tuple(finished), tuple(left))

    def _settle_together(self, ended: Sequence[Declared]) -> Steps[list[Pending]]:
        """Put away what has ended, several at a time: they share the cost of a commit.  Gives what could not be."""
        left: list[Pending] = []
        for first in range(0, len(ended), self.options.settle_together):
            several = ended[first : first + self.options.settle_together]
            errors = yield from together(
                [self.settle(Ended(each.operation_id, each.standing, True, listed=True)) for each in several]
            )
            for each, error in zip(several, errors, strict=True):
                if error is not None:
                    left.append(self._pending(each, _why_left(error)))
        return left

    # --- one operation of a sweep -----------------------------------------------------------

    def _recover_one(self, environment: Environment, each: Declared) -> Steps[Outcome[Any] | Pending]:
        if each.intention is None:
            return self._pending(each, each.unreadable or "")
        if self._young(environment, each):
            return self._pending(each, "younger than the grace period")
        try:
            model = self._operations.get(each.intention.operation)
            if model is None:
                return self._pending(each, "this process does not know the operation")
            if self._parked(each):
                return self._pending(each, "parked: its business function failed too often; run it again, or cancel it")
            if sweeping.too_old_to_start(environment, each):
                return self._pending(
                    each, "so old that its result may be forgotten already: look at its documents, then cancel it"
                )
            return (yield from self._take_over(each, model))
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise  # meant for the process
        except BaseException as error:  # noqa: BLE001 - business code may raise anything; the sweep goes on
            return self._pending(each, _why_left(error))

    def _young(self, environment: Environment, each: Declared) -> bool:
        return each.intention is not None and environment.now.wall - each.intention.at < self.options.grace

    def _take_over(self, each: Declared, model: type[Operation[Any]]) -> Steps[Outcome[Any]]:
        assert each.intention is not None
        assert each.cas is not None
        try:
            operation = model.model_validate_json(each.intention.arguments)
        except Exception as error:  # a validator of the application's own may raise anything
            raise InvariantViolation(f"the stored arguments do not fit {model.__name__}: {misfit(error)}") from error
        work = OperationWork(operation, each.operation_id, self)
        work.check_arguments()  # before anything is counted
        # The arguments are those that were declared, whatever their defaults are called by now.
        work.fingerprint = each.intention.fingerprint
        execution = Execution(self.environment(), each.operation_id, work)
        try:
            ended = yield from execution.run((each.intention, each.cas))
        except OperationMismatch:
            # The id has ended with other arguments: this intention can never run.
            yield from sweeping.drop_intention(self.environment(), each)
            raise
        except Exception:
            if not execution.at_fault:
                yield from execution.declaration.spare()
            raise
        outcome = self._outcome(ended, work)
        yield from self.settle(ended)
        return outcome

    # --- translation ------------------------------------------------------------------------

    def _asking(self, steps: Steps[T], operation_id: str | None = None, *, writes: bool = False) -> Steps[T]:
        """Protocol exceptions become errors of ours."""
        try:
            return (yield from steps)
        except (TimeUp, StoreFailed) as error:
            why = str(error) or f"no answer within {self.options.deadline:g} s"
            if writes:
                raise OutcomeUnknown(f"{why}; ask again with the same id", operation_id=operation_id) from None
            if isinstance(error, StoreFailed) and error.refusal.lasting:
                raise UsageError(f"{why}; nothing was changed", operation_id=operation_id) from None
            raise StoreUnavailable(f"{why}; nothing was changed", operation_id=operation_id) from None

    def _outcome(self, ended: Ended, work: OperationWork[Any] | None = None) -> Outcome[Any]:
        record = ended.record
        value: Any = None
        refusal: Declined | None = None
        if record.state in ("proposed", "committed"):
            model = self._operations.get(record.operation or "")
            adapter = work.adapter if work else result_adapter(model) if model else None
            try:
                value = record.result if adapter is None else decode_result(adapter, record.result)
            except Exception as error:  # a validator of the application's own may raise anything
                raise InvariantViolation(
                    f"it happened, but its stored result does not fit its type any more: {misfit(error)}",
                    operation_id=ended.operation_id,
                ) from error
        elif record.state == "declined":
            if record.refusal is None:
                raise InvariantViolation("a refusal is stored without its code", operation_id=ended.operation_id)
            refusal = Declined(record.refusal.code, **record.refusal.details)
            refusal.operation_id = ended.operation_id
        return Outcome(
            operation_id=ended.operation_id,
            status="declined" if refusal else "cancelled" if record.state == "cancelled" else "applied",
            value=value,
            refusal=refusal,
            replayed=ended.replayed,
            taken_over=ended.taken_over,
            attempts=record.attempts,
            history=record.history,
            operation=record.operation,
            recorded=record.result,
        )

    def _parked(self, each: Declared) -> bool:
        failures = each.intention.failures if each.intention else 0
        return 0 < self.options.park_after <= failures

    def _pending(self, each: Declared, note: str = "") -> Pending:
        record, intention = each.standing.record, each.intention
        return Pending(
            operation_id=each.operation_id,
            operation=intention.operation if intention else record.operation if record else None,
            since=intention.at if intention else None,
            worker=intention.worker if intention else None,
            state=_how_far(each),
            failures=intention.failures if intention else 0,
            last_error=intention.last_error if intention else None,
            parked=self._parked(each),
            note=note,
            history=record.history if record else (),
        )


def _how_far(each: Declared) -> Literal["declared", "open", "proposed", "ended"]:
    record = each.standing.record
    if each.ended:
        return "ended"
    return "declared" if record is None else "proposed" if record.state == "proposed" else "open"


def _why_left(error: BaseException) -> str:
    return f"the store gave no answer: {error}" if isinstance(error, TimeUp | StoreFailed) else text_of(error)


def describe(error: BaseException) -> str:
    """One line for a log."""
    if isinstance(error, TimeUp | StoreFailed):
        return str(error) or "the store gave no answer in time"
    return str(error) if isinstance(error, CasOpsError) else text_of(error)

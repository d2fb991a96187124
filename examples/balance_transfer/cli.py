"""The command line: arguments, errors in one sentence, exit statuses.

Must not be in here: anything that another program would want to call.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from urllib.parse import unquote

from rich.console import Console

from casops import CasOpsError
from examples.balance_transfer.chaos import NotEmpty, prepare, run_chaos
from examples.balance_transfer.importing import Tally, run_import
from examples.balance_transfer.model import open_bank
from examples.balance_transfer.orders import BadFile, Orders, parse_amount, read_orders
from examples.balance_transfer.pool import Pool, Stopped
from examples.balance_transfer.service import Failed, run_service
from examples.balance_transfer.showing import Bar, complain, console, show_problems, show_tally, show_verdict
from examples.balance_transfer.timeline import show_life

PROGRAM = "python -m examples.balance_transfer"
SAMPLE = Path(__file__).with_name("sample.csv")

DONE, LOOK, CANNOT, INTERRUPTED = 0, 1, 2, 130
STATUSES = """\
exit status:
  0    done; payments that were declined for lack of money are done, too
  1    the rest is done, but something wants to be looked at: rows left out,
       payments unfinished, cancelled or declined for another reason, sums that
       differ, a check that failed, an unknown id
  2    could not be started, and nothing was changed: arguments, file, store
  130  interrupted; importing the same file again continues
"""


AGAIN = "What was answered is done and stays done; importing the same file again continues."


class Refused(Exception):
    """The program cannot start; the message is one sentence for people."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace, Console], int] = arguments.run
    try:
        status = run(arguments, console())
        sys.stdout.flush()
        return status
    except (Refused, BadFile, NotEmpty, CasOpsError) as error:
        complain(f"error: {error}")
        return CANNOT
    except KeyboardInterrupt:
        complain(f"interrupted. {AGAIN}" if arguments.command == "import" else "interrupted")
        return INTERRUPTED
    except OSError as error:  # nobody reads the output any more, or a disk is full
        with suppress(OSError):
            complain(f"error: {error}. {AGAIN}" if arguments.command == "import" else f"error: {error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would try again at its exit
        return LOOK


def _import(arguments: argparse.Namespace, screen: Console) -> int:
    orders = _orders(arguments.file)
    with open_bank(_shared(arguments.store), grace=0) as casops:
        # No grace for the sweep at the end: our workers are gone by then, and if another import is at
        # work, to finish its operations early is a waste and no harm.
        show_problems(orders)
        tally, stopped = Tally(), False
        try:
            with Bar(screen) as bar:
                run_import(casops, Pool(arguments.store, arguments.workers), orders, arguments.opening, bar, tally)
        except (Stopped, CasOpsError) as error:
            stopped = True
            show_tally(screen, orders, tally)
            complain(f"stopped: {error}. {AGAIN}")
        except KeyboardInterrupt:
            show_tally(screen, orders, tally)
            raise
        else:
            show_tally(screen, orders, tally)
            if tally.before != tally.after:
                complain("the sums differ: was another program at work on these accounts at the same time?")
        return LOOK if stopped or orders.problems or tally.complaints or tally.before != tally.after else DONE


def _chaos(arguments: argparse.Namespace, screen: Console) -> int:
    if arguments.workers < 2:
        raise Refused("chaos needs two workers at least, since payments are asked for by two at once")
    orders = _orders(arguments.file)
    try:
        ordeal = prepare(orders, arguments.kills, arguments.seed)
    except ValueError as error:
        raise Refused(str(error)) from None
    folder = None if arguments.store else Path(tempfile.mkdtemp(prefix="balance-transfer-"))
    store = arguments.store or f"sqlite:///{folder}/bank.db"
    show_problems(orders)
    good = False
    try:
        with Bar(screen) as bar:
            verdict = run_chaos(_shared(store), arguments.workers, orders, arguments.opening, ordeal, bar)
        show_verdict(screen, orders, ordeal, verdict)
        good = verdict.good
    except (Stopped, CasOpsError) as error:
        if not ordeal.begun:
            raise
        complain(f"stopped: {error}")
    except (KeyboardInterrupt, NotEmpty):
        good = True  # nothing to look at
        raise
    finally:
        if folder is not None and good:
            shutil.rmtree(folder)
        elif folder is not None:
            complain(f"the store is kept: {store}")
    if good:
        screen.print(f"every payment happened exactly once or was declined (seed {arguments.seed})")
    else:
        complain(f"NOT PROVED (seed {arguments.seed})")
    return LOOK if not good or orders.problems else DONE


def _service(arguments: argparse.Namespace, screen: Console) -> int:
    if not all(importlib.util.find_spec(each) for each in ("fastapi", "uvicorn")):
        raise Refused("serving needs more than this example: pip install 'casops[demo,service]'")
    with tempfile.TemporaryDirectory(prefix="balance-transfer-") as folder:
        try:
            good = run_service(screen, f"sqlite:///{folder}/bank.db", Path(folder))
        except Failed as error:
            complain(f"stopped: {error}")
            return LOOK
    if good:
        screen.print("the payment happened exactly once")
    else:
        complain("NOT PROVED")
    return DONE if good else LOOK


def _show(arguments: argparse.Namespace, screen: Console) -> int:
    with open_bank(_existing(arguments.store)) as casops:
        found = casops.outcome(arguments.operation_id)
    if found is None:
        complain(f"{arguments.operation_id}: nothing is known of it: nobody has asked, or is asking now")
        return LOOK
    show_life(screen, arguments.operation_id, found)
    return DONE


def _existing(store: str) -> str:
    """To look something up must not bring an empty store into being."""
    path = Path(unquote(_shared(store).removeprefix("sqlite:///").partition("?")[0]))
    try:
        if store.startswith("sqlite:///") and not (
            path.exists() and path.stat().st_size > 0
        ):  # an empty file is none yet
            raise Refused(f"there is no such store: {path}")
    except OSError as error:
        raise Refused(f"{path} cannot be opened: {error.strerror or error}") from None
    return store


def _orders(path: Path) -> Orders:
    try:
        return read_orders(path)
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror or error}") from None
    except BadFile as error:
        raise Refused(f"{path}: {error}") from None


def _shared(store: str) -> str:
    if store.startswith("memory:"):
        raise Refused("a store in memory is seen by one process only, and the workers are several: sqlite:///bank.db")
    return store


# --- arguments ----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Payments between accounts, imported from a CSV file exactly once.",
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace, Console], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, description=text, epilog=STATUSES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.set_defaults(run=run)
        return added

    def working(added: argparse.ArgumentParser) -> None:
        added.add_argument("--workers", type=_count, default=4, metavar="N", help="worker processes (4)")
        added.add_argument(
            "--opening-balance",
            dest="opening",
            type=_balance,
            default=Decimal("500.00"),
            metavar="AMOUNT",
            help="what accounts that pay and do not exist yet are opened with (500.00)",
        )

    importing = command(
        "import", _import, "Make the payments of a file.  Those that were made before are not made again."
    )
    importing.add_argument("file", type=Path, metavar="FILE.csv", help="payment_id,source,target,amount")
    importing.add_argument(
        "--store", required=True, metavar="URL", help="sqlite:///bank.db, or couchbase://user:password@host/bucket"
    )
    working(importing)

    chaos = command("chaos", _chaos, "The same while workers are killed, and a proof that it did no harm.")
    chaos.add_argument("file", type=Path, nargs="?", default=SAMPLE, metavar="FILE.csv", help="(the sample)")
    chaos.add_argument("--kills", type=_number, default=20, metavar="N", help="workers to be killed (20)")
    chaos.add_argument(
        "--seed",
        type=int,
        default=7,
        help="decides the order, the payments asked for twice and when workers are killed (7); "
        "not what a worker has got done by then, which is up to the operating system",
    )
    chaos.add_argument("--store", metavar="URL", help="(a temporary file, kept if a check fails)")
    working(chaos)

    command("service", _service, "One payment over HTTP, while the server that was asked for it is killed.")

    show = command("show", _show, "The life of one payment: intention, main value, result.")
    show.add_argument("operation_id", metavar="OPERATION_ID", help="a payment_id, or open-ACCOUNT")
    show.add_argument("--store", required=True, metavar="URL", help="for example sqlite:///bank.db")
    return parser


def _balance(text: str) -> Decimal:
    try:
        return parse_amount(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number is needed, not {text!r}")
    return int(text)


def _count(text: str) -> int:
    number = _number(text)
    if not 1 <= number <= 64:
        raise argparse.ArgumentTypeError(f"between 1 and 64, not {text}")
    return number

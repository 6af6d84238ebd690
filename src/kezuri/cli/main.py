"""`kezuri`: one command a file; anything heavy is imported by the command that needs it."""

import atexit
import gc
import os
import sys
import warnings
from typing import NoReturn

import typer

from kezuri.cli import (
    bench,
    check,
    compare,
    compress,
    demo,
    inspect,
    list_,
    new,
    report,
    resume,
    run,
    study,
    study_masks,
)
from kezuri.core.errors import Interrupted, KezuriError, KezuriWarning, ResourceError, UsageError, users_line

app = typer.Typer(
    name="kezuri",
    help="Shaves trained neural networks: the smallest or fastest model that keeps its accuracy, with proof.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("compress")(compress.compress)
app.command("run")(run.run)
app.command("resume")(resume.resume)
app.command("check")(check.check)
app.command("inspect")(inspect.inspect)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("bench")(bench.bench)
app.command("list")(list_.list_)
app.command("new")(new.new)
app.command("study")(study.study)
app.command("study-masks")(study_masks.study_masks)
app.command("demo")(demo.demo)


def main() -> NoReturn:
    """Runs the command; what went wrong on purpose ends in one message and the error's own exit code."""
    if not sys.warnoptions:
        _only_our_warnings()
    _yield_soon()
    # at exit nothing is left to collect but torch's own modules, and looking through them takes 0.3 s
    atexit.register(gc.freeze)
    try:
        app()
    except KezuriError as error:
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end("stopped", Interrupted.exit_code)
    except SystemExit as ended:
        if ended.code == Interrupted.exit_code:  # typer turns Ctrl-C into a silent exit
            _end("stopped", Interrupted.exit_code)
        raise
    except MemoryError:
        _end("out of memory: try a smaller batch size", 4)
    except BrokenPipeError:  # the reader of our output went away, such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _end_if_not_ours(error)
        raise
    sys.exit(0)


def _end_if_not_ours(error: Exception) -> None:
    """Ends where the user's code or the system is at fault; a fault of Kezuri's own keeps its traceback."""
    line = users_line(error)
    if line is not None:
        _end(f"your code failed at {line}: {type(error).__name__}: {error}", UsageError.exit_code)
    if isinstance(error, OSError):
        _end(str(error), ResourceError.exit_code)


def _yield_soon() -> None:
    """Lets torch's waiting threads go to sleep after microseconds, before torch is imported.

    By default they look for work for milliseconds, and take the time of whatever else runs: beside two busy
    processes on two cores a training takes 1.3 to 1.7 times as long. Alone it makes no difference.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def _only_our_warnings() -> None:
    """What libraries warn of is for programmers; what Kezuri warns of is for the reader."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", KezuriWarning)
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)


def _end(message: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(f"kezuri: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()

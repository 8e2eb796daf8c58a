"""The process around a command: streams, signals, exit codes, and one line for each error."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from imgcls.errors import DeviceError, ImgclsError, is_lost_peer, is_out_of_memory
from imgcls.runtime.signals import terminable

if TYPE_CHECKING:
    pass
from imgcls.cli.commands import dispatch

HEAD_START = 5  # seconds
LONGEST_MESSAGE = 1000


def entry() -> NoReturn:
    """The console script: ``main``, and an end that does not take torch and its libraries down piece by piece.

    That takes 0.5 s of CPU for nothing. What was registered to be done at exit is done.
    """
    gc.disable()  # while modules are imported: nothing of theirs is garbage
    code = main()
    is_stopped = code >= 128  # Python would rather end by SIGINT itself if one was seen within some imports
    if not is_stopped and ("torch" not in sys.modules or len(threading.enumerate()) > 1):
        sys.exit(code)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a reader that has gone
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code. Errors are one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    is_debug = "--debug" in arguments
    try:
        os.getcwd()
    except FileNotFoundError:
        return _fail("the working folder no longer exists; cd to another", 2, is_debug)
    _fill_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminable():
            return dispatch(arguments)
    except ImgclsError as error:
        return _fail(error, error.exit_code, is_debug)
    except KeyboardInterrupt as error:
        number = getattr(error, "signal_number", signal.SIGINT)
        return _fail("stopped; what was saved before is kept", 128 + number, False)
    except BrokenPipeError:  # the reader of stdout has gone: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if is_out_of_memory(error):
            return _fail(_unexpected(error), 1, is_debug)
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}", 1, is_debug)
    except MemoryError:
        return _fail("out of memory; try a smaller batch_size or dataset.image_size, or loader=stream", 1, is_debug)
    except Exception as error:  # noqa: BLE001 - the last resort: still one line
        if (stop := _stop_behind(error)) is not None:
            number = getattr(stop, "signal_number", signal.SIGINT)
            return _fail("stopped; what was saved before is kept", 128 + number, False)
        if is_lost_peer(error):
            time.sleep(HEAD_START + 2)  # let the one that knows why say it
            return _fail(
                "another of the processes has ended; imgcls train resume=RUN goes on from the last save", 1, is_debug
            )
        return _fail(_unexpected(error), 1, is_debug)


def _fill_streams() -> None:
    """Where stdin, stdout or stderr is closed (2>&-), /dev/null takes its place: no later file may get its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            if os.open(os.devnull, os.O_RDWR) == number:  # the lowest that is free
                setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _stop_behind(error: BaseException | None) -> BaseException | None:
    """The interrupt that a library's clean-up has replaced by an error of its own, if there was one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _unexpected(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    if is_out_of_memory(error):
        return f"out of memory; try a smaller batch_size or dataset.image_size ({text[:120]})"
    return f"{type(error).__name__}: {text} (--debug shows where)"


def _fail(error: ImgclsError | str, code: int, is_debug: bool) -> int:
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]} ..."
    rank = os.environ.get("RANK", "0")
    if rank == "0" or isinstance(error, DeviceError):
        with contextlib.suppress(OSError):  # a terminal that has gone
            print(f"imgcls: error: {text}" if code < 128 else f"\n{text}", file=sys.stderr, flush=True)
    if is_debug and sys.exc_info()[0] is not None:
        import traceback

        traceback.print_exc()
    if rank != "0":
        time.sleep(HEAD_START)  # torchrun ends all processes with the first: let the main one say what is wrong
        if code < 128 and not isinstance(error, DeviceError):  # it was not wrong there
            print(f"imgcls: error (rank {rank}): {text}", file=sys.stderr, flush=True)
    return code

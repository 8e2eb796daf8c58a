"""The process around a command: streams, signals, exit codes and one line per error."""

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
from typing import NoReturn

from imgcls.cli.dispatch import dispatch
from imgcls.errors import DeviceError, ImgclsError, error_line, is_lost_peer, is_out_of_memory
from imgcls.runtime.signals import terminable

HEAD_START = 5  # seconds in which rank 0 reports an error that all ranks have
INTERRUPTED = "interrupted; the last checkpoint, if any, is kept"
LONGEST_MESSAGE = 1000


def entry() -> NoReturn:
    """The console script: ``main``, then exit without tearing torch down, which saves 0.5 s of CPU.

    Functions registered with atexit do run.
    """
    gc.disable()  # modules that are being imported are not garbage
    code = main()
    is_interrupted = code >= 128  # after a SIGINT during some imports, Python would end by that signal
    if not is_interrupted and ("torch" not in sys.modules or len(threading.enumerate()) > 1):
        sys.exit(code)
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader is gone
            stream.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; an error is one line on stderr."""
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
        return _interrupted(error)
    except BrokenPipeError:  # the reader of stdout is gone: | head
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
        return _unforeseen(error, is_debug)


def _fill_streams() -> None:
    """Open /dev/null for each of stdin, stdout and stderr that is closed (2>&-), so that no file gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            if os.open(os.devnull, os.O_RDWR) == number:  # the lowest free one
                setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _unforeseen(error: Exception, is_debug: bool) -> int:
    """An unexpected error; returns the exit code."""
    if (interrupt := _interrupt_behind(error)) is not None:
        return _interrupted(interrupt)
    if is_lost_peer(error):
        time.sleep(HEAD_START + 2)  # the rank that failed reports why
        return _fail("another rank exited; resume with: imgcls train resume=RUN", 1, is_debug)
    return _fail(_unexpected(error), 1, is_debug)


def _interrupt_behind(error: BaseException | None) -> BaseException | None:
    """The interrupt that a library's clean-up replaced by another error, if there was one."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


def _interrupted(error: BaseException) -> int:
    return _fail(INTERRUPTED, 128 + getattr(error, "signal_number", signal.SIGINT), False)


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
        with contextlib.suppress(OSError):  # the terminal is gone
            print(error_line(text) if code < 128 else f"\n{text}", file=sys.stderr, flush=True)
    if is_debug and sys.exc_info()[0] is not None:
        import traceback

        traceback.print_exc()
    if rank != "0":
        time.sleep(HEAD_START)  # torchrun ends all ranks with the first one: let rank 0 report the error
        if code < 128 and not isinstance(error, DeviceError):  # rank 0 did not have it
            print(error_line(text, f" (rank {rank})"), file=sys.stderr, flush=True)
    return code

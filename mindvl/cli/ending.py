"""A process that has worked with others ends before Python is taken apart.

The threads in which gloo exchanges tensors live as long as the process, also after `destroy_process_group`. One that
lets go of its last tensor while the interpreter is being taken apart aborts the process (pytorch issue 190489): once in
some thousand runs, all is written, and yet the exit status is 134 and the launcher calls the job failed.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress


def run_to_end(main: Callable[[], int]) -> int:
    """What `main` returns, which is to be the exit status. Call it before anything registers with `atexit`.

    When the process ends, threads are joined and exit functions run (loggers close, groups are destroyed) as ever.
    After the last of them, where torch is loaded, it ends at once.
    """
    status = 1  # of an error that Python itself prints

    def end() -> None:
        if "torch" in sys.modules:
            with suppress(OSError):  # nobody reads any more
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    atexit.register(end)  # the first to register is the last to be called
    try:
        status = main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if (
            type(error).__name__ == "SIGTERMException"
        ):  # Lightning's, which says 0: the shell would go on as after a run
            status = 128 + signal.SIGTERM
            print("ended by SIGTERM; the same command goes on from the last checkpoint", file=sys.stderr)
            return status
        raise
    return status

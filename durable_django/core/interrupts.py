"""What people's code may raise that is not theirs to keep: the worker's own concern."""

from __future__ import annotations

import threading


def is_interrupt(error: BaseException) -> bool:
    """Tell whether an error is Ctrl-C, which is for whoever sits at the keyboard.

    Python raises it in the main thread alone, as in ``drain()``. In a worker's threads, nothing but the code
    that they run can have raised a KeyboardInterrupt, and it fails like any other error.
    """
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def is_workers_own(error: BaseException) -> bool:
    """Tell whether an error says more of the process than of the code that it came out of."""
    return isinstance(error, MemoryError) or is_interrupt(error)

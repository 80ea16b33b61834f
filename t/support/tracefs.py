"""The kernel's ftrace, of which there is one: tests that let it be touched hold a lock on it.

    with tracefs.held():
        ...                       # mounted at tracefs.PATH for this process and its children only
"""

import contextlib
import ctypes
import fcntl
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tap

PATH = "/sys/kernel/tracing"
CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x00020000, 0x4000, 1 << 18, 2

libc = ctypes.CDLL(None, use_errno=True)


def private_mounts():
    """From here on this process has mounts of its own."""
    if os.geteuid() != 0:
        tap.skip("needs root")
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        tap.skip("mount namespaces are not allowed here")


def lock():
    """Waits until no other test on this machine uses ftrace; held until the descriptor is closed."""
    # The folder is the same file in every mount of tracefs, so the lock holds across namespaces.
    fd = os.open(PATH, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


@contextlib.contextmanager
def held():
    """tracefs mounted in mounts of our own, and locked."""
    private_mounts()
    if not os.path.exists(PATH + "/trace") and libc.mount(b"nodev", PATH.encode(), b"tracefs", 0, None):
        tap.skip("this kernel or container does not let tracefs be mounted")
    fd = lock()
    try:
        yield
    finally:
        os.close(fd)

"""Become another program, tied to the life of the process that asked for it.

Run as a script by `process.spawn`: `python -I -S launch.py PARENT_PID DEATH_SIGNAL UID GID PROGRAM [ARG...]`.
A script between fork and exec, not `preexec_fn`: the supervisor has threads, and Python code that runs
in a forked copy of a threaded process can deadlock. `-I -S` keeps it to about 15 ms.

UID and GID are -1 to stay who we are. They are dropped here, not by `subprocess`, because the kernel forgets
the death signal when the ids change and because the other user may not be allowed to read our Python.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent_pid, death_signal, uid, gid = (int(word) for word in sys.argv[1:5])
    program = sys.argv[5:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        # The parent may have died before the line above took effect; nobody would tell us any more.
        if os.getppid() != parent_pid:
            sys.exit(1)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()

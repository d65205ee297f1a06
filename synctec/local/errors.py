"""What can go wrong with the local stack. Each text says what is wrong and what to do.

LocalStackError
├── BinaryNotFoundError    (binaries.py)    a server program is not installed
├── StartFailedError       (supervisor.py)  a child died or was not ready in time
├── AlreadyRunningError    (stack.py)       another stack uses the same data folder
└── NotRunningError        (attach.py)      there is no stack to attach to
"""


class LocalStackError(Exception):
    """The local stack cannot do what was asked."""

"""What a process has loaded by the time it begins its work stays: the garbage collector need not look at it again.

Django with our apps is half a million objects. A worker makes some tens of thousands with each batch and drops them again,
which the collector takes for growth: it went through everything time and again, for a quarter of the worker's time.
"""

import gc
from typing import Final

#: Objects made and not yet dropped before the collector looks for cycles among them; about those of a batch of events.
#: Python begins at 700, which is meant for programs that hold little.
YOUNG_OBJECTS_MAX: Final = 50_000


def settle() -> None:
    """Take what is there for what stays, and look less often at what is young. For a process that is done with starting."""
    gc.collect()
    gc.freeze()
    _, *older = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS_MAX, *older)

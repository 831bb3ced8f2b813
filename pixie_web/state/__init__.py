"""State that all processes share: `app.state`, and `State` for other programs.

A companion: it needs the standard library alone, and is loaded at its first use. Its
promises are in docs/state.md.

    values      keys, values, errors
    clock       a time that nobody sets back; who is dead
    gate        one writer at a time
    session     the operations, in SQL
    counts      what was done, counted
    bells       how a process hears of a message
    store       a file: sessions behind the gate
    hub         subscribers
    places      where a file may lie, and the server's own directory
    redis_store the same operations in Redis
    api         State, and the same for coroutines
    limits      rate_limit, a trigger
"""

from .api import AsyncLease, AsyncState, Lease, State, server_place
from .limits import rate_limit
from .places import Place, place_descriptors, remove_place
from .values import Entry, Message, Rate, StateBusy, StateFull, StateLost

__all__ = [
    "AsyncLease",
    "AsyncState",
    "Entry",
    "Lease",
    "Message",
    "Place",
    "Rate",
    "State",
    "StateBusy",
    "StateFull",
    "StateLost",
    "place_descriptors",
    "rate_limit",
    "remove_place",
    "server_place",
]

"""How the benches measure a call: in turns with others, in processor time."""

from __future__ import annotations

import time
import timeit
from statistics import median
from typing import Any, Callable, Dict, List


def medians(calls: Dict[str, Callable[[], Any]], rounds: int) -> Dict[str, float]:
    """Return the median microseconds of each call, measured in turns."""
    times: Dict[str, List[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles expressions, imports modules
    number = {
        name: max(1, int(0.01 / (timeit.timeit(call, number=3) / 3)))
        for name, call in calls.items()
    }
    for _ in range(rounds):
        for name, call in calls.items():
            seconds = timeit.timeit(call, timer=time.process_time, number=number[name])
            times[name].append(seconds / number[name] * 1e6)
    return {name: median(values) for name, values in times.items()}

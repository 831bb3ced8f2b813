"""Jobs that outlive their page: app.submit(), app.call(), and what becomes of them.

    submit -- main: its own line -- a worker: function(*args) -- the state: its result

A job is an order: the name of a function that is importable, and its arguments. From a
worker it travels as a frame on that worker's own pipe. Main hands it to the scheduler
of the pool, as it does with a request, so a deadline, a kill and a crash are what they
are there. What became of it is kept in the state that all processes share, under its
id. Main alone starts jobs, each once: what fails is never tried again.
"""

from .api import JobError, JobInfo, Jobs
from .orders import job, run_order

__all__ = ["JobError", "JobInfo", "Jobs", "job", "run_order"]

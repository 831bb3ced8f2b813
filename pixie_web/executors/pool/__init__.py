"""The pool: worker processes, the zygote that forks them, and main's side of both.

frames, worker, zygote     the other processes, and what is said to them
traces, links              one worker, seen from main; its state is set there alone
scheduler                  jobs: which one runs, which one waits, until when
recycling, supervisor      processes: boots, replacements, exits
pool                       clients, each with a job
"""

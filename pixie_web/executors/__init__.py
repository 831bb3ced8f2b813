r"""Executors: loop, thread, task, and the process pool.

Where a handler runs. A placement is the word for it, an executor runs its routes: it
takes (route, request) and returns a Response, and in each the same `answer` runs
triggers, handler and error handlers: so a handler gives the same bytes everywhere.
That of `sync` calls it on the event loop, that of `thread` in a thread, of `asnc` in
a Task, and those of `pool` and `stream` in a worker process:

    main                                          zygote               worker 1..n
    +------------------------+   START, SIGNAL   +----------+  fork   +-----------+
    | loop, sockets, TLS     |------------------>| one      |-------->| one job   |
    | Pool: idle workers,    |<------------------| thread,  |         | at a time |
    |       waiting jobs     |  STARTED, EXITED  | no loop  |         +-----------+
    |                        |                   +----------+            ^     |
    |                        |--- BOOT, RUN, CANCEL ---------------------+     |
    |                        |<-- READY, RESPONSE | HEAD DATA* END | FILE -----+
    +------------------------+     two pipes for each worker, its own alone

The zygote is forked before main has a loop, TLS or threads, so its own forks are
clean, take a millisecond, and give workers the application as it was then. It alone
kills and reaps. If it dies, its workers die with it, and main starts another one that
imports the application again; so it starts at once where a fork is not clean, and
where even that one can't fork, each worker imports for itself ("exec" and "spawn":
`pool.zygote`). The frames and states are the same. Nothing is shared between
workers, and nothing is pickled: requests travel as the bytes that came, answers as
the bytes that go. A worker's life, seen from main:

    starting --READY--> idle --RUN--> busy --RESPONSE, FILE, END--> idle
        \                |             |  deadline, crash, exit()
         `---------------+-------------+--> dying --exit seen--> (gone, replaced)
           can't boot,      too old, too large, has done enough: when another
           other routes     worker is ready, and it has no job; or one too many

A dying worker is asked to end (its pipes are closed; SIGUSR2 raises RequestTimeout),
after the grace to write where it hangs (SIGUSR1), and then killed. Main trusts no
byte of a worker, and never uses the pipes of a dying one again: an answer can't
reach the wrong client. A slow client stops its stream's worker by nothing but the
kernel's buffers: main stops reading, and the worker's send blocks.
"""

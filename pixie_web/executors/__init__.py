r"""Executors: loop, thread, task, and the process pool.

A placement says where the handler of a route runs, and an executor runs the routes of
a placement. It takes (route, request) and returns a Response. In each the same
`answer` runs triggers, handler and error handlers, so a handler gives the same bytes
everywhere. The executor of `sync` calls it on the event loop, that of `thread` in a
thread, that of `asnc` in a Task, and those of `pool` and `stream` in a worker
process:

    main                                          zygote               worker 1..n
    +------------------------+   START, SIGNAL   +----------+  fork   +-----------+
    | loop, sockets, TLS     |------------------>| one      |-------->| one job   |
    | Pool: idle workers,    |<------------------| thread,  |         | at a time |
    |       waiting jobs     |  STARTED, EXITED  | no loop  |         +-----------+
    |                        |                   +----------+            ^     |
    |                        |--- BOOT, RUN, CANCEL ---------------------+     |
    |                        |<-- READY, RESPONSE | HEAD DATA* END | FILE -----+
    +------------------------+     two pipes for each worker, its own alone

The zygote is forked before main has a loop, TLS or threads. So its own forks are
clean, take a millisecond, and give workers the application as it was at that time.
Only the zygote kills and reaps workers. If it dies, its workers die with it, and main
starts another zygote, which imports the application again ("exec"). It does that at
once if a fork is not clean. If that zygote can't fork either, each worker imports the
application ("spawn"; see `pool.zygote`). The frames and states are the same. Nothing
is shared between workers, and nothing is pickled: requests travel as the bytes of the
client, answers as the bytes for the client. A worker's life, seen from main:

    starting --READY--> idle --RUN--> busy --RESPONSE, FILE, END--> idle
        \                |             |  deadline, crash, exit()
         `---------------+-------------+--> dying --exit seen--> (gone, replaced)
           can't boot,      too old, too large, has done enough: when another
           other routes     worker is ready, and it has no job; or one too many

A dying worker is asked to end (its pipes are closed; SIGUSR2 raises RequestTimeout).
After the grace period it writes its traceback (SIGUSR1), and is killed. Main checks
each byte of a worker, and never uses the pipes of a dying one again. So an answer
can't reach the wrong client. A slow client stops the worker of its stream by the
kernel's buffers alone: main stops reading, and the send of the worker blocks.
"""

"""What bytes mean: pure functions and parsers, fed by others, without I/O.

    http11      heads, bodies and chunks of HTTP/1.1, in both directions
    multipart   the parts of an uploaded form

No socket, no loop, no clock and no file is known here. A reader is fed with whatever
has come and asked for its next event, so a connection can be replayed from a table
of bytes, cut at any place, and has to give the same events each time. Both are
strict: what two parsers could read differently is refused. How much may be asked of
them, and how many of it, has a limit here; how long it may take is the server's
affair.
"""

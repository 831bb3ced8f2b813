"""The meaning of bytes: pure functions and parsers, without I/O.

    http11      heads, bodies and chunks of HTTP/1.1, in both directions
    multipart   the parts of an uploaded form

Here is no socket, no loop, no clock and no file. A reader gets the bytes that have
arrived, and gives its next event. So a connection can be replayed from a table of
bytes, cut at any place, and must give the same events each time. Both parsers are
strict: input that two parsers could read differently is refused. Sizes and numbers
have their limits here; limits of time are in the server.
"""

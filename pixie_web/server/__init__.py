"""The server: sockets and clients. It uses only `handle` of the application.

    proxies      who the client is, where trusted proxies stand before it
    access       what is logged of a request
    options      all bounds, and their numbers
    transport    one client's connection: bytes, time, and its end
    exchange     one request and its answer, whatever protocol carries them
    insistence   clients that ask again and again while we are too busy
    http1        HTTP/1.1 on a connection: bytes to exchanges, answers to bytes
    listeners    sockets that accept clients, TLS, certificates
    server       all connections of a process, their deadlines, their end

A connection asks the reader of `protocol` for events, and makes an exchange of each
head. That calls `handle(request)`, and sends the response to its sink, which is the
connection, as fast as the client reads. There is backpressure in both directions.
Without a reader, at most 64 KiB of a body are read. The next part of a response is
made when the client has taken most of the part before. `options` has the limits of
size and time for a client; nothing here waits for ever.
"""

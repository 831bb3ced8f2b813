"""The server: sockets and clients. Of the application it knows `handle`.

    proxies      who the client is, where trusted proxies stand before it
    access       what is logged of a request
    options      all bounds, and their numbers
    connection   one client: bytes to requests, responses to bytes, in order
    listeners    sockets that accept clients, TLS, certificates
    server       all connections of a process, their deadlines, their end

A connection asks the reader of `protocol` for events, calls `handle(request)` for
each head, and sends the response as fast as its client reads. Both directions hold
back: beyond 64 KiB nothing is read that nobody has asked for, and no part of a
response is pulled before the client has taken most of the one before. How much a
client may send, and how long it may take, stands in `options`; nothing here waits
for ever.
"""

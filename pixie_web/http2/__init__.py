"""HTTP/2 in the built-in server: a companion, of the standard library alone.

budgets      how much a client may do
tables       the two tables of RFC 7541
hpack        header blocks to fields, and back; no I/O
frames       bytes to frames, and back; no I/O
heads        the fields of a request to its canonical head; of a response, to a block
stream       one request and its answer: where an exchange sends to
sending      what waits for a window, and whose turn it is
multiplexed  a connection that is at several requests
receiving    what each frame means
connection   one client's connection, from its preface to its GOAWAY
"""

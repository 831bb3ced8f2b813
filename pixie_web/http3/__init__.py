"""HTTP/3 in the built-in server: a companion that stands on the library aioquic.

starting     what it needs: the library, a certificate, UDP sockets
quic         the library's QUIC and HTTP/3, with windows that follow what was read
stream       one request and its answer: where an exchange sends to
wire         a connection of datagrams: the library fed, and its clock
connection   one client's connection, from its handshake to its GOAWAY
port         a UDP socket: which connection a datagram is for, and who may begin one

It is experimental. What a request means, how much a client may do, and how bodies wait
for their reader is HTTP/2's: see `http2`.
"""

"""The server: sockets and clients. Of the application it knows `handle`."""

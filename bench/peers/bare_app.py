"""No server at all: one answer to whatever comes, the floor of what uvloop costs."""

import asyncio
import os

import uvloop

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Bare(asyncio.Protocol):
    """Answers once for each piece of data."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(ANSWER)


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bare, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()


uvloop.run(main())

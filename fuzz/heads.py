"""Fuzz request heads, their framing and pipelines.

    pip install atheris
    python fuzz/heads.py [-max_total_time=600] [corpus directory]

The input is a connection. Oracle: see framing.py. The first byte chooses the limits.
"""

from __future__ import annotations

from framing import check_connection
from harness import recorded, run

SEEDS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a%20b?x=1&y=%zz+2 HTTP/1.1\r\nHost: [::1]:80\r\nCookie: a=1; b=%22\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
    b"GET / HTTP/1.0\r\n\r\n",
    b"\r\nPOST http://b:1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
    b"Content-Length: 1\r\n\r\nx",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
]
WORDS = [
    *(
        b"GET ",
        b"POST ",
        b"OPTIONS * ",
        b"CONNECT a:1 ",
        b" HTTP/1.1\r\n",
        b" HTTP/1.0\r\n",
    ),
    *(b"\r\nHost: a\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(
        b"Connection: close\r\n",
        b"Connection: keep-alive\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Cookie: a=1; b\r\n",
        b"Content-Length: 0\r\n",
        b"HTTP/2.0",
        b"http://",
        b"https://",
    ),
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b":",
        b"[::1]",
        b"%00",
        b"%C3",
        b"?",
        b"#",
        b"0\r\n\r\n",
    ),
    *(
        b", ",
        b"\t",
        b"\xff",
        b"\x00",
        b"@",
        b"host:",
        b"TRANSFER-ENCODING: ",
        b"chunked, ",
    ),
]


if __name__ == "__main__":
    run(
        check_connection, SEEDS + recorded("gunicorn-requests.json", "bytes_b64"), WORDS
    )

"""The flags of the command line: one for each setting, with a line of help."""

from __future__ import annotations

import sys
from typing import Any, Dict, List, NamedTuple, Sequence

from .errors import PixieError
from .settings import DEFAULT_SETTINGS, convert_setting

# A group is named by a line that is not indented.
_TEXTS = """
Where it listens
  host  the address to bind; localhost means IPv4 and IPv6
  port  the port; 0 takes a free one
  uds  the path of a Unix socket, in place of host and port
  uds_mode  the permissions of that socket, in octal
  fd  the number of a bound socket that the program has inherited
  certfile  the certificate chain in PEM, for HTTPS
  keyfile  the private key of the certificate, in PEM
While you write the program
  debug  show the cause of an error on its page
  reload  restart the program when one of its files changes
  loop_guard  log handlers that hold the loop, or strict; auto: log if debug
  server_timing  tell each client how long its request waited and ran
How it runs
  workers  pool routes that run at once; auto: one for each CPU
  threads  thread routes that run at once
  server  another server in place of this one: uvicorn, gunicorn ...
  loop  uvloop or asyncio; auto: uvloop if it is installed
  parser  pixie, or httptools if it is installed
  http2  speak HTTP/2 with clients that ask for it
  http3  speak HTTP/3 on the UDP port beside that of HTTPS; experimental
  pool_start  how workers start: zygote, exec or spawn
  drain_seconds  how long running requests may go on after a stop
Clients and proxies
  trusted_proxies  proxies whose headers count: addresses, networks or unix
  allowed_hosts  the hosts that are served
  root_path  the path that a proxy takes off
  access_log  log each request
  access_log_format  the fields of that log, as %(name)s
State that processes share
  state  where app.state lies: memory, a path, or redis://...
  state_max_bytes  the size of all its values
  state_durable  wait for the disk at each change
Limits of a connection
  keep_alive_seconds  time between two requests
  head_seconds  time for the head of a request
  body_idle_seconds  how late a body may be, in all
  send_idle_seconds  how long a client may read nothing of its answer
  min_bytes_per_second  the lowest rate of a body or an answer; 0: none
  linger_seconds  time for a client to read a refusal
  tls_handshake_seconds  time for a TLS handshake
  max_connections  connections at once; 0: as many as descriptors allow
  max_connections_per_client  connections of one address; 0: no limit
  max_pipelined_requests  requests that one turn of the loop answers
Limits of a request
  max_body_bytes  the size of a body, if its route sets no other
  max_memory_body_bytes  the size of all bodies in memory; the others are files
  max_request_line_bytes  the length of the first line
  max_header_line_bytes  the length of a header line
  max_headers  the number of header lines
  max_head_bytes  the size of the whole head
  max_chunk_line_bytes  the length of the size line of a chunk
  max_extension_bytes  the size of chunk extensions, beyond that of the body
  max_trailer_bytes  the size of all trailer lines
Limits of a form
  max_fields  the number of fields
  max_form_bytes  the size of all text
  max_field_bytes  the size of a text field
  max_file_bytes  the size of a file
  max_parts  the number of parts of a multipart form
  max_part_headers  the number of header lines of a part
  max_part_head_bytes  the size of all header lines of a part
The pool
  min_workers  workers that stay when nothing is to do; auto: all
  max_streams  streams at once; auto: four for each worker
  worker_idle_seconds  how long a spare worker may be idle; then it ends
  nice  how far the priority of workers is below that of main
  timeout_grace_seconds  time from a deadline to the kill of the worker
  max_crashes  crashes of a route, then it is off for a while; 0: no limit
  max_waiting  requests that wait for a worker
  max_waiting_bytes  the size of their bodies in memory
  max_tasks_per_worker  requests, then the worker is replaced; 0: no limit
  max_worker_age_seconds  age, then the worker is replaced; 0: no limit
  max_worker_bytes  memory, then the worker is replaced; 0: no limit
  worker_memory_limit_bytes  memory, then a MemoryError in the worker; 0: no limit
"""
_MAY_BE_TEXT = ("_mode", "workers", "max_streams")  # octal, "auto"


class UsageError(PixieError):
    """A command line is not understood."""


class Given(NamedTuple):
    """A command line that was read: its words, and settings by their names."""

    words: List[str]
    settings: Dict[str, Any]


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean x?", or "" where nothing known is like the word."""
    from difflib import get_close_matches

    found = get_close_matches(word, known, 1)
    return f"; did you mean {found[0]}?" if found else ""


def _is_switch(name: str) -> bool:
    return isinstance(DEFAULT_SETTINGS[name], bool)


def flag_of(name: str) -> str:
    """Return the flag that sets a setting to what it is not by default."""
    words = name.replace("_", "-")
    return f"--no-{words}" if DEFAULT_SETTINGS[name] is True else f"--{words}"


def _read_value(flag: str, name: str, text: str) -> Any:
    """Return the value of a flag, of the kind that its setting has."""
    default = DEFAULT_SETTINGS[name]
    if not isinstance(default, (int, float)) or name.endswith(_MAY_BE_TEXT):
        return text  # it is looked at with all the others
    try:
        return convert_setting(name, text, type(default))
    except PixieError as error:
        raise UsageError(f"{flag}: {error}") from None


def read_flags(arguments: Sequence[str]) -> Given:
    """Return what a command line says; flags may stand anywhere, and the last one wins.

    Raises:
        UsageError: an unknown flag, a value that is missing, or one too many.
    """
    given = Given([], {})
    left = list(arguments)
    known = {f"--{name.replace('_', '-')}": name for name in DEFAULT_SETTINGS}
    switches = {k: v for k, v in known.items() if _is_switch(v)}
    negations = {f"--no-{flag[2:]}": name for flag, name in switches.items()}
    while left:
        flag, equals, value = left.pop(0).partition("=")
        if not flag.startswith("-") or flag == "-":
            given.words.append(flag + equals + value)
        elif flag in switches or flag in negations:
            if equals:
                raise UsageError(f"{flag} takes no value; --no-... turns it off")
            name = switches.get(flag) or negations[flag]
            given.settings[name] = flag in switches
        elif flag in known:
            if not equals and (not left or left[0].startswith("--")):
                raise UsageError(f"{flag} needs a value")
            value = value if equals else left.pop(0)
            given.settings[known[flag]] = _read_value(flag, known[flag], value)
        else:
            similar = did_you_mean(flag, [*known, *negations])
            raise UsageError(f"there is no flag {flag}{similar}")
    return given


def _shown_default(name: str) -> str:
    default = DEFAULT_SETTINGS[name]
    if isinstance(default, bool) or default in ("", sys.maxsize) or name == "fd":
        return ""
    if name == "uds_mode":
        return f"{default:o}"
    if default == -1:
        return "auto"
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def describe_flags() -> str:
    """Return the help on all flags: groups, and for each flag a line and its default.

    A setting that is on by default is told as the flag that turns it off.
    """
    lines: List[str] = []
    for line in _TEXTS.strip().splitlines():
        if not line.startswith(" "):
            lines += ["", f"{line}:"]
            continue
        name, text = line.strip().split("  ")
        flag = flag_of(name) + ("" if _is_switch(name) else " VALUE")
        off = "do not " if DEFAULT_SETTINGS[name] is True else ""
        default = _shown_default(name)
        shown = f" [{default}]" if 0 < len(default) <= 30 else ""
        lines.append(f"  {flag:<35} {off}{text}{shown}")
    return "\n".join(lines[1:])

"""Other servers' ways in: WSGI and ASGI."""

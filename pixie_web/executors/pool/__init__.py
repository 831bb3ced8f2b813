"""The pool: worker processes, the zygote that forks them, and main's side of both."""

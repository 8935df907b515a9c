"""What tests share: a whole server in a thread, raw sockets, waiting for a condition."""

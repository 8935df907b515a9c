"""Fault injection into the audit log's writer, by strace: every system call fails, and dies, in turn, under load."""

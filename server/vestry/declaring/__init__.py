"""Tenants, projects, users, policy and the states of keys, declared in files: read, compared with what is there, told.

Pure, but for `plan` and `state`, which read the directory. Nothing here knows the command line.
"""

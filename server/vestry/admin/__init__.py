"""The administration: every change to tenants, projects, users, keys and policy, from the API or the command line.

Rules: each change is judged against the rights of whoever makes it, then recorded, then done; what cannot be recorded
is not done. Refusals are those of `errors`. Nothing here knows HTTP.
"""

"""The administration: `/admin/v1`, on a port of its own.

A route is one row of a table (`table.Row`): FastAPI's routes, the OpenAPI document and the tests' matrix of routes and
roles are made from the rows. `desk.Desk` takes every request the same way: known, permitted, done, recorded.
"""

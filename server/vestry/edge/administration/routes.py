"""The table of the administration: every route there is."""

from __future__ import annotations

from vestry.edge.administration import glass, house, keys, policy, records, tenants
from vestry.edge.administration.table import Row

ROUTES: tuple[Row, ...] = (*house.ROWS, *tenants.ROWS, *keys.ROWS, *policy.ROWS, *glass.ROWS, *records.ROWS)

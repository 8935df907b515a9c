"""The OpenAPI document of the administration: it is one, it says all that there is, and the server keeps to it."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.desk import Desk
from support.house import House
from vestry.edge.administration.openapi import document, refusals
from vestry.edge.administration.routes import ROUTES
from vestry.edge.administration.table import Row
from vestry.roles import Role

EXAMPLES = 2
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    response_headers_conformance,
]  # fmt: skip
DOCUMENT = document(ROUTES)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
SETTINGS = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)


@pytest.fixture(scope="module")
def desk(house: House) -> Desk:
    """Somebody who may do everything: what is tried goes as deep as it can."""
    return Desk(house, Role.ADMIN, Role.AUDITOR, owner="everybody")


def test_the_document_is_served_and_whole(desk: Desk) -> None:
    """What is served is what the table makes: every row, with its permission, its refusals and its examples."""
    served = desk.get("/openapi.json").json()
    assert served == json.loads(json.dumps(DOCUMENT))
    assert served["openapi"] == "3.1.0"
    for row in ROUTES:
        operation = served["paths"][row.path][row.method.lower()]
        assert row.permission.value in operation["description"]
        wanted = {str(status) for status in row.statuses} | {str(each.status) for each in refusals(row)}
        assert operation["responses"].keys() == wanted, row.name
        headers = {each["name"] for each in operation.get("parameters", []) if each["in"] == "header"}
        assert ("If-Match" in headers) == row.matched
        assert ("Idempotency-Key" in headers) == row.tokened
        assert all("ETag" in operation["responses"][str(each)]["headers"] for each in row.statuses if row.versioned)
        if row.body is not None:
            assert operation["requestBody"]["content"]["application/json"]["example"]
            row.body.model_validate_json(json.dumps(dict(row.example)), strict=True)
    assert sum(map(len, served["paths"].values())) == len(ROUTES) + len(served["paths"])  # `parameters` of each path


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row.name)
def test_whatever_is_sent_is_answered_as_the_document_says(row: Row, desk: Desk, house: House) -> None:
    """No request, well or badly made, is answered with a fault, an undocumented status or another form."""

    def answered(case: Any) -> None:
        case.headers = {**(case.headers or {}), "Authorization": f"Bearer {desk.key}"}
        case.validate_response(case.call(base_url=house.admin), checks=CHECKS)

    # What `SCHEMA.parametrize()` does, one test a row: it makes tests that all have one id, and of those pytest-xdist
    # runs the first; and it makes the requests of all while tests are collected, in each worker.
    build_operation_test(
        config=SCHEMA.config,
        operation=SCHEMA[row.path][row.method],
        test_func=answered,
        given_kwargs={},
        feedback=FeedbackSources(),
        explicit_settings=SETTINGS,
    )()

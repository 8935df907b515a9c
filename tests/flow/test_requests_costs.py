"""What would cost an engine too much: expressions, schemas and grammars that are refused before it sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fakes.engine import FakeEngine
from support.bodies import structure, tool
from support.house import House, chat
from support.refusal import Visit

PARAMS = {
    "response_format": "response_format.json_schema.schema",
    "tools": "tools[0].function.parameters",
    "structured_outputs": "structured_outputs.json",
}


@pytest.fixture
def visit(house: House, engine: FakeEngine) -> Visit:
    """One bad request to come."""
    return Visit(house, engine)


def in_place(place: str, schema: Any) -> dict[str, Any]:
    """The field of a body that holds this schema."""
    if place == "structured_outputs":
        return {"structured_outputs": {"json": schema}}
    return structure(schema) if place == "response_format" else tool(schema)


COSTLY_PATTERNS = {
    "a repeat in a repeat": "(a+)+b",
    "a repeat in a repeat, deeper": "((((a*))))*b",
    "a repeat in a repeat, with an alternative": "(a|b+)*c",
    "a repeat beside a character in a repeat": "(a+a)*b",
    "a repeat beside a character in a repeat, deeper": "((((a+a)*a)*a)*a)*b",
    "a repeat in a counted repeat in a repeat": "((a{2,9})+)+",
    "a counted repeat of 10^9": "a{1000000000}",
    "a counted repeat of 10^30": "a{1000000000000000000000000000000}",
    "counted repeats that multiply": "((a{100}){100}){100}",
    "counted repeats in a row": "a{1000}" * 200,
    "counted repeats of a long text": "(" + "abcdefghij" * 20 + "){999}",
    "a text too long": "a" * 2049,
    "2,000 groups": "(" * 1000 + "a" + ")" * 1000,
    "not an expression": "(((",
    "a reference back": r"(a)\1",
    "a look ahead": "(?=a)a",
    "a look behind": "(?<!a)b",
    "a condition": "(a)?(?(1)b|c)",
    "a comment mode": "(?x)(a +)+",
    "a lazy repeat in a repeat": "(a+?)+b",
    "a possessive repeat in a repeat": "(?:a++)+b",
    "an open repeat in an open repeat": "(a{2,}b){3,}",
}


@pytest.mark.parametrize("name", COSTLY_PATTERNS)
def test_an_expression_that_is_costly_is_refused(name: str, visit: Visit) -> None:
    """A regular expression that would cost an engine dearly is refused before an engine sees it."""
    body = chat(structured_outputs={"regex": COSTLY_PATTERNS[name]})
    answer = visit.post(body)
    visit.refused(answer, 400, "invalid_request", param="structured_outputs.regex", unlike=(COSTLY_PATTERNS[name],))


@pytest.mark.parametrize("inside", [{"pattern": "(a+)+b"}, {"patternProperties": {"(a+)+b": {}}}])
@pytest.mark.parametrize("place", ["response_format", "tools", "structured_outputs"])
def test_an_expression_inside_a_schema_is_held_to_the_same(inside: dict[str, Any], place: str, visit: Visit) -> None:
    """Wherever a body can hold an expression, it is looked for."""
    deeper = {"properties": {"a": {"anyOf": [{"items": inside}]}}}
    answer = visit.post(chat(**in_place(place, deeper)))
    visit.refused(answer, 400, "invalid_request", param=PARAMS[place], unlike=("a+",))


BAD_SCHEMAS: dict[str, Any] = {
    "a reference to a web page": {"$ref": "http://169.254.169.254/latest/meta-data"},
    "a reference to a file": {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
    "a reference to a neighbour": {"items": {"$ref": "other.json#/a"}},
    "a dynamic reference": {"$dynamicRef": "https://evil.example/schema"},
    "a recursive reference": {"$recursiveRef": "https://evil.example/schema"},
    "a schema of 70,000 bytes": {"enum": ["a" * 70_000]},
    "10,000 properties": {"properties": {f"p{each}": {} for each in range(10_000)}},
    "a text of 10^9 at least": {"type": "string", "minLength": 10**9},
    "a text of 10^9 at most": {"type": "string", "maxLength": 10**9},
    "a list of 10^9": {"type": "array", "minItems": 10**9},
    "lists in lists": {"maxItems": 5000, "items": {"maxItems": 5000, "items": {"maxItems": 5000}}},
    "a length below zero": {"minLength": -1},
    "10^9 properties": {"minProperties": 10**9},
}


@pytest.mark.parametrize("name", BAD_SCHEMAS)
@pytest.mark.parametrize("place", ["response_format", "tools", "structured_outputs"])
def test_a_schema_that_is_costly_or_refers_outside_is_refused(name: str, place: str, visit: Visit) -> None:
    """A schema that names another document, or whose size or counts would cost an engine dearly, is refused."""
    answer = visit.post(chat(**in_place(place, BAD_SCHEMAS[name])))
    visit.refused(answer, 400, "invalid_request", param=PARAMS[place], unlike=("169.254", "evil", "passwd"))


def test_the_schemas_of_all_tools_together_are_bounded(visit: Visit) -> None:
    """Many tools with schemas that are each within the bound are too much together."""
    (one,) = tool({"enum": ["a" * 60_000]})["tools"]
    many = [{**one, "function": {**one["function"], "name": f"f{each}"}} for each in range(8)]
    assert visit.post(chat(tools=many[:4])).status_code == 200
    del visit.engine.asked[:]
    visit.refused(visit.post(chat(tools=many)), 400, "invalid_request", param="tools[4].function.parameters")


def test_the_expressions_of_a_body_together_are_bounded(visit: Visit) -> None:
    """Many expressions that are each within the bound are too much together, in one schema or in several."""
    some = {"anyOf": [{"pattern": "[a-z]" * 400}] * 8}
    assert visit.post(chat(**structure(some))).status_code == 200
    del visit.engine.asked[:]
    body = chat(**structure(some), **tool(some))
    visit.refused(visit.post(body), 400, "invalid_request", param="tools[0].function.parameters")


def test_a_grammar_that_is_large_is_refused(visit: Visit) -> None:
    """A grammar has the bound that schemas have."""
    body = chat(structured_outputs={"grammar": "root ::= " + "a " * 40_000})
    visit.refused(visit.post(body), 400, "invalid_request", param="structured_outputs.grammar")


@pytest.mark.parametrize("wish", [{"regex": "[ab]"}, {"grammar": 'root ::= "a"'}], ids=["regex", "grammar"])
def test_where_expressions_are_not_taken_schemas_still_are(
    wish: dict[str, str], tmp_path: Path, engine: FakeEngine
) -> None:
    """`bounds.expressions: false`: neither an expression of a call's own nor a grammar reaches an engine."""
    with House(tmp_path, [engine], bounds={"expressions": False}) as strict:
        visit = Visit(strict, engine)
        said = visit.post(chat(structured_outputs=wish))
        visit.refused(said, 400, "unsupported_parameter", param=f"structured_outputs.{next(iter(wish))}")
        assert visit.post(chat(structured_outputs={"json": {"type": "string"}})).status_code == 200

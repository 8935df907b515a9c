"""Asks vLLM's own parser: run by the engine's Python, with a JSON list of argument lists on standard input.

Prints, as JSON, what is wrong with each list (null for one that is accepted), and every option that the parser
knows, with whether it takes a value.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import NoReturn

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


class RefusedError(Exception):
    """The parser's complaint."""


class Parser(FlexibleArgumentParser):  # type: ignore[misc]
    """vLLM's parser, which raises where it would end the program."""

    def error(self, message: str) -> NoReturn:
        raise RefusedError(message)


def verdict(parser: Parser, arguments: list[str]) -> str | None:
    try:
        found = parser.parse_args(arguments)
        validate_parsed_serve_args(found)
        validate_api_server_args(found)
    except (RefusedError, TypeError, ValueError, KeyError) as fault:
        return str(fault)
    return None


def main() -> None:
    parser = make_arg_parser(Parser())
    options = {
        name: isinstance(action, (argparse._StoreTrueAction, argparse.BooleanOptionalAction))
        for action in parser._actions
        for name in action.option_strings
    }
    verdicts = [verdict(parser, arguments) for arguments in json.load(sys.stdin)]
    json.dump({"verdicts": verdicts, "options": options}, sys.stdout)


if __name__ == "__main__":
    main()

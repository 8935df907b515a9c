"""Progress: a bar for a person, a few lines for a log."""

from __future__ import annotations

import io

import pytest

from vestry.models.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


def test_a_step_says_how_long_it_took() -> None:
    """A step is announced, and its time is told at the end."""
    said = io.StringIO()
    with Progress(said).step("count sheep"):
        assert said.getvalue() == "  count sheep ...\n"
    assert said.getvalue().splitlines()[1].startswith("  count sheep: done in 0.")


def test_a_step_that_fails_does_not_claim_to_be_done() -> None:
    """Of a step that raises nothing more is said."""
    said = io.StringIO()
    with pytest.raises(ValueError, match="wolf"), Progress(said).step("count sheep"):
        raise ValueError("wolf")
    assert "done" not in said.getvalue()


def test_a_log_gets_a_line_a_quarter() -> None:
    """Outside a terminal a bar is four lines at most, without control characters."""
    said = io.StringIO()
    with Progress(said).bar("sheep", 200) as bar:
        for _ in range(200):
            bar.advance()
    assert said.getvalue() == "".join(f"  sheep: {share} %\n" for share in (25, 50, 75, 100))


def test_a_terminal_gets_one_line_that_changes() -> None:
    """On a terminal the bar stays on one line, tells what comes now, and is cleared away at the end."""
    said = Terminal()
    with Progress(said).bar("sheep", 4) as bar:
        bar.advance(2, "dolly")
        bar.advance(2)
    drawn = said.getvalue()
    assert "\n" not in drawn
    assert "[############............]  50 %  dolly" in drawn
    assert "[########################] 100 %" in drawn
    assert drawn.endswith("\r\x1b[K")


def test_more_than_everything_is_everything() -> None:
    """A bar that is advanced too far stays at its end; one over nothing does not fail."""
    said = io.StringIO()
    with Progress(said).bar("sheep", 0) as bar:
        bar.advance(10)
        bar.advance(10)
    assert said.getvalue() == "  sheep: 100 %\n"

import io

import pytest

from securefd.progress import Lines, RichProgress, Silent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_are_seconds_apart() -> None:
    stream, clock = io.StringIO(), Clock()
    with Lines(stream, clock).stage("training", 10) as advance:
        for _ in range(10):
            clock.now += 2
            advance(1)
    assert stream.getvalue().splitlines() == [
        "training",
        "training: 3 of 10",
        "training: 6 of 10",
        "training: 9 of 10",
        "training: done in 20 s",
    ]


def test_inner_stages_are_quiet_until_a_line_is_due() -> None:
    stream, clock = io.StringIO(), Clock()
    lines = Lines(stream, clock)
    with lines.stage("rounds", 3) as advance:
        for step in range(3):
            with lines.stage(f"round {step}", 1):
                clock.now += 4
            advance(1)
    assert stream.getvalue().splitlines() == ["rounds", "round 1: done in 4 s", "rounds: done in 12 s"]


def test_a_stage_that_fails_is_not_done() -> None:
    stream = io.StringIO()
    lines = Lines(stream, Clock())
    with pytest.raises(ZeroDivisionError), lines.stage("first", 1):
        _ = 1 // 0
    with lines.stage("second", 1):
        pass
    assert stream.getvalue().splitlines() == ["first", "second", "second: done in 0 s"]


def test_pipes_get_plain_lines() -> None:
    stream = io.StringIO()
    with RichProgress(stream).stage("training", 1) as advance:
        advance(1)
    assert stream.getvalue() == "training\ntraining: done in 0 s\n"


def test_terminals_get_bars_and_a_line_for_each_outermost_stage() -> None:
    stream = Terminal()
    progress = RichProgress(stream)
    for name in ("[a]", "b"):
        with progress.stage(name, 2) as advance, progress.stage("inner", 1) as inner:
            inner(1)
            advance(2)
    text = stream.getvalue()
    assert "b: done in 0 s" in text
    assert "[a]" in text
    assert "inner: done" not in text


def test_a_terminal_is_left_tidy_after_an_error() -> None:
    stream = Terminal()
    progress = RichProgress(stream)
    with pytest.raises(ZeroDivisionError), progress.stage("a", 2), progress.stage("inner", 1):
        _ = 1 // 0
    assert stream.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in stream.getvalue()
    with progress.stage("b", 1):
        pass
    assert "b: done" in stream.getvalue()


def test_silent_is_silent(capfd) -> None:
    with Silent().stage("training", 1) as advance:
        advance(1)
    assert capfd.readouterr() == ("", "")

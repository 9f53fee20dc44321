"""Progress without a terminal: a line a minute with the rate and the time left."""

import time

from laparoflow.progress import progress


def test_a_line_a_minute_with_rate_and_time_left(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("steps", 1000, note=lambda: "loss 3.2") as advance:
        for _ in range(250):
            now[0] += 0.5
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "steps: 120 of 1000, 2.0 a second, about 7 min left, loss 3.2",
        "steps: 240 of 1000, 2.0 a second, about 6 min left, loss 3.2",
    ]


def test_the_line_names_what_is_worked_on_and_does_without_a_total(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress("frames", None) as advance:
        now[0] = 7200.0
        advance(3600, "clip_001 (2 of 3 clips)")
    assert capsys.readouterr().err == "clip_001 (2 of 3 clips): 3600, 30.0 a minute\n"


def test_nothing_is_shown_where_it_is_not_wanted(monkeypatch, capsys):
    monkeypatch.setattr("laparoflow.progress.EVERY", 0.0)
    with progress("frames", 1, show=False) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_one_bar_that_names_what_is_worked_on(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("frames", 2) as advance:
        advance(1, "clip_001")
    assert "clip_001" in capsys.readouterr().err


def test_work_inside_other_work_shows_nothing(monkeypatch, capsys):
    monkeypatch.setattr("laparoflow.progress.EVERY", 0.0)
    for show, shown in ((True, 2), (False, 0)):
        with progress("steps", 2, show=show) as advance:
            advance(1)
            with progress("online probe", 1) as inner:
                inner(1)
            advance(1)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == shown and all(line.startswith("steps") for line in lines)

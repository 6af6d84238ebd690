from kezuri.report.plots import png, spec
from kezuri.report.reading import RunView
from kezuri.report.tradeoff import tradeoff_chart


def rows_of(run):
    """The points the chart draws."""
    return spec(tradeoff_chart(run))["data"]["values"]


def test_every_attempt_is_a_point_and_the_front_is_what_stands_unbeaten(make_run):
    run = RunView.read(make_run("r"))
    rows = rows_of(run)
    assert len(rows) == len(run.rounds)
    assert [row["state"] for row in rows].count("rolled back") == sum(
        not entry.stands for entry in run.rounds
    )
    best = [row for row in rows if row["state"] == "on the front"]
    for row in rows:
        if row["state"] == "beaten":
            assert any(b["size"] <= row["size"] and b["accuracy"] >= row["accuracy"] for b in best)


def test_draws_a_picture(make_run):
    assert png(tradeoff_chart(RunView.read(make_run("r")))).startswith(b"\x89PNG")


def test_a_run_without_rounds_has_no_trade_off(make_run):
    run = RunView.read(make_run("r"))
    bare = RunView(run.path, run.recipe, run.manifest, ())
    assert tradeoff_chart(bare) is None


def test_attempts_at_one_round_are_told_apart(make_run):
    rows = rows_of(RunView.read(make_run("r")))
    assert [row["round"] for row in rows if row["round"].startswith("4")] == ["4", "4 (2)"]

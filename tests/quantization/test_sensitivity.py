"""The table of losses: measured once, kept, and never mistaken for another."""

import json
import math

import pytest

from kezuri.core.errors import CorruptArtifact, DataError, UsageError
from kezuri.quantization.sensitivity import (
    Cost,
    Entry,
    Option,
    SensitivityTable,
    measure_sensitivity,
)

OPTIONS = {"conv": [Option(), Option(8), Option(4)], "linear": [Option(8), Option(8, 0.5)]}


class Model:
    """Losses that follow from layer and option, and a note of what was asked."""

    def __init__(self, stops_after=math.inf):
        self.asked, self.stops_after = [], stops_after

    def loss(self, layer, option):
        if len(self.asked) >= self.stops_after:
            raise KeyboardInterrupt
        self.asked.append((layer, option))
        return math.nan if option.bits == 4 else 1.5 + 1 / option.bits + option.sparsity

    def cost(self, layer, option):
        weights = {"conv": 1000, "linear": 600}[layer]
        return Cost(weights * option.bits / 8, weights * (1 - option.sparsity), 0.25)

    def measure(self, journal=None, **changed):
        settings = {"base_loss": 1.5, "fixed": Cost(40, 0, 0.5), "about": {"model": "small"}, **changed}
        return measure_sensitivity(OPTIONS, self.loss, self.cost, journal=journal, **settings)


def test_each_option_of_each_layer_is_measured_once_and_alone():
    model = Model()
    table = model.measure()
    assert model.asked == [
        ("conv", Option(8)),
        ("conv", Option(4)),
        ("linear", Option(8)),
        ("linear", Option(8, 0.5)),
    ]
    assert table.entry("conv", Option()).loss == 0
    assert table.entry("conv", Option(8)) == Entry(Option(8), 0.125, Cost(1000, 1000, 0.25))
    assert table.entry("conv", Option(4)).loss == math.inf
    assert table.entry("linear", Option(8, 0.5)).loss == 0.625
    assert [*table.layers] == ["conv", "linear"] and table.about == {"model": "small"}


@pytest.mark.parametrize("stops_after", [0, 1, 3])
def test_a_stopped_measuring_goes_on_where_it_was(tmp_path, stops_after):
    journal = tmp_path / "sensitivity.json"
    first, second, third = Model(stops_after), Model(), Model()
    with pytest.raises(KeyboardInterrupt):
        first.measure(journal)
    table = second.measure(journal)
    assert len(second.asked) == 4 - stops_after and not {*first.asked} & {*second.asked}
    assert third.measure(journal) == table == Model().measure()
    assert not third.asked


def test_a_journal_of_something_else_is_refused(tmp_path):
    journal = tmp_path / "sensitivity.json"
    Model().measure(journal)
    with pytest.raises(
        UsageError, match=r"was measured on \{'model': 'small'\}, not on \{'model': 'large'\}"
    ):
        Model().measure(journal, about={"model": "large"})
    with pytest.raises(UsageError, match=r"a loss of 1\.5, this one has 1\.6"):
        Model().measure(journal, base_loss=1.6)
    assert Model().measure(journal, base_loss=1.5 + 1e-7).entry("conv", Option(8)).loss == 0.125
    journal.write_text('{"format": "kezuri sensitivity journal 1"}')
    with pytest.raises(CorruptArtifact, match="does not hold measured losses"):
        Model().measure(journal)


def test_a_saved_table_is_read_back_the_same(tmp_path):
    table = Model().measure()
    table.save(tmp_path / "table.json")
    assert SensitivityTable.load(tmp_path / "table.json") == table
    assert "Infinity" not in (tmp_path / "table.json").read_text()


def test_a_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "table.json"
    with pytest.raises(DataError, match="no file"):
        SensitivityTable.load(path)
    for content in ([], {"format": "other"}, {"format": "kezuri sensitivity 1"}):
        path.write_text(json.dumps(content))
        with pytest.raises(CorruptArtifact, match="does not hold"):
            SensitivityTable.load(path)
    Model().measure().save(path)
    path.write_text(path.read_text().replace('"bits": 8', '"bits": 9'))
    with pytest.raises(CorruptArtifact, match="bits is one of"):
        SensitivityTable.load(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Option(1), "bits is one of 2, .* got 1"),
        (lambda: Option(8, 1.0), "sparsity .* got 1.0"),
        (lambda: Cost(size=-1), "size must be 0 or more and finite, got -1"),
        (lambda: Cost(latency=math.inf), "latency must be 0 or more and finite, got inf"),
        (lambda: Entry(Option(), math.nan, Cost()), "loss of 32 bits must be a number"),
        (lambda: SensitivityTable({}), "at least one layer"),
        (
            lambda: SensitivityTable({"a": (Entry(Option(), math.inf, Cost()),)}),
            "a has no option with a finite loss",
        ),
        (lambda: SensitivityTable({"a": (Entry(Option(), 0, Cost()),) * 2}), "of a is there twice"),
        (
            lambda: Model().measure().entry("conv", Option(2)),
            "no 2 bits for conv .*have: 32 bits; 8 bits; 4 bits",
        ),
        (lambda: Model().measure().entry("fc", Option(2)), "no such layer"),
        (
            lambda: measure_sensitivity({"a": []}, Model().loss, Model().cost, base_loss=0),
            "every layer needs",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make, said):
    with pytest.raises(UsageError, match=said):
        make()

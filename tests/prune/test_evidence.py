import numpy as np
import pytest
import torch

from kezuri.core.errors import MissingEvidence
from kezuri.data import TensorPart
from kezuri.model.families import Coupling, Member
from kezuri.prune.criteria.bn_scale import BnScale
from kezuri.prune.criteria.norm import L1
from kezuri.prune.criteria.pcas import Pcas
from kezuri.prune.criteria.taylor import Taylor
from kezuri.prune.evidence import Evidence, gather_evidence


def part(count=16):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 6, 6, generator=generator)
    return TensorPart(images, torch.randint(5, (count,), generator=generator), classes=5)


def test_what_is_missing_is_named_with_what_is_there():
    evidence = Evidence(name="conv1.weight", gate=torch.ones(2))
    assert torch.equal(evidence.require("gate"), torch.ones(2))
    with pytest.raises(
        MissingEvidence, match=r"conv1\.weight has no 'norm_scale' evidence \(has: gate\).*ignore"
    ):
        evidence.require("norm_scale")


def test_gathers_what_the_criterion_needs_and_no_more(residual):
    evidence = gather_evidence(residual, Taylor(), part())
    assert evidence["conv1.weight"].name == "conv1.weight"
    assert evidence["conv1.weight"].taylor_gate.shape == (6,)
    assert evidence["conv1.weight"].taylor_weight is None
    assert evidence["head.weight"].taylor_gate.shape == (5,)


def test_couplings_name_further_weights_to_learn_about(residual, couplings):
    residual.scale = torch.nn.Parameter(torch.ones(6))
    loose = Coupling("scale", 6, (Member("scale", 0, np.arange(6)[:, None], "output"),), None)
    evidence = gather_evidence(residual, Taylor(), part(), couplings=[*couplings, loose])
    assert evidence["scale"].taylor_gate is None  # the loss does not depend on it
    assert evidence.keys() - {"scale"} == gather_evidence(residual, Taylor(), part()).keys()


def test_a_criterion_without_needs_looks_at_no_data(residual):
    assert gather_evidence(residual, L1(), None) == {}


def test_gates_do_not_come_from_a_pass_over_data(residual):
    with pytest.raises(MissingEvidence, match=r"no collector gives 'gate'.*attention gates"):
        gather_evidence(residual, Pcas(), part())


def test_a_layer_without_batchnorm_has_no_norm_scale(residual):
    evidence = gather_evidence(residual, BnScale(), part())
    assert evidence["conv1.weight"].norm_scale.tolist() == [1] * 6
    with pytest.raises(MissingEvidence, match=r"head\.weight has no 'norm_scale'"):
        BnScale()(residual.head.weight, evidence["head.weight"])

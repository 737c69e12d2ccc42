"""Predicted communication of cases on several ranks."""

import pytest

from workloads.catalogue import catalogue
from workloads.errors import WorkloadError
from workloads.predicted_costs import predicted_costs

TRANSFORMER = catalogue()["transformer"]


@pytest.mark.parametrize("ranks", [2, 1024])
def test_predicted_payload_is_every_gradient_once(ranks):
    config = TRANSFORMER.configure({"preset": "bloom-tiny", "tokens": 32})
    costs = predicted_costs(TRANSFORMER, config, ranks=ranks)
    payload = sum(total.payload_bytes for total in costs.communication.values())
    assert payload == 4 * TRANSFORMER.static_costs(config).parameters
    assert {(key.kind, key.ranks) for key in costs.communication} == {("all_reduce", ranks)}


def test_single_rank_communicates_nothing():
    config = TRANSFORMER.configure({"preset": "bloom-tiny", "tokens": 32})
    assert predicted_costs(TRANSFORMER, config).communication == {}


def test_workload_of_one_rank_is_refused_on_several():
    workload = catalogue()["operators"]
    config = workload.configure({"preset": "tiny", "tokens": 16})
    with pytest.raises(WorkloadError, match="operators averages no gradients; take ranks=1"):
        predicted_costs(workload, config, ranks=2)

"""One vector that is the modules: whatever is done to the one is done to the others."""

import torch
from torch import nn

from rlkl.flat_parameters import FlatParameters
from rlkl.networks import mlp


def test_the_vector_is_the_module_and_its_gradient_the_modules() -> None:
    network = mlp(3, [4], 2, "tanh")
    flat = FlatParameters(network.parameters())
    assert flat.vector.numel() == 3 * 4 + 4 + 4 * 2 + 2
    flat.vector.data.fill_(0.5)
    assert all((parameter == 0.5).all() for parameter in network.parameters())
    network[0].bias.data.fill_(2.0)
    assert (flat.vector == 2.0).sum() == 4

    network(torch.ones(5, 3)).sum().backward()
    gathered = torch.cat([parameter.grad.reshape(-1) for parameter in network.parameters()])
    torch.testing.assert_close(flat.vector.grad, gathered, rtol=0, atol=0)
    assert flat.gradient.any()


def test_the_values_are_those_the_modules_had() -> None:
    layer = nn.GRU(2, 3)
    before = torch.cat([p.detach().flatten().clone() for p in layer.parameters()])
    features = torch.ones(4, 1, 2)
    outputs = layer(features)[0].detach()
    flat = FlatParameters(layer.parameters())
    assert torch.equal(flat.vector, before)
    assert torch.equal(layer(features)[0], outputs)
    flat.vector.data.zero_()
    assert not layer(features)[0].any()


def test_parameters_that_were_not_given_stay_out() -> None:
    network = mlp(3, [4], 2, "tanh")
    flat = FlatParameters(network[2].parameters())
    first = network[0].weight.detach().clone()
    flat.vector.data.zero_()
    assert torch.equal(network[0].weight, first)
    assert not network[2].weight.any()


def test_loading_a_state_keeps_the_vector_in_place() -> None:
    network = mlp(3, [4], 2, "tanh")
    flat = FlatParameters(network.parameters())
    network.load_state_dict({k: torch.ones_like(v) for k, v in network.state_dict().items()})
    assert (flat.vector == 1).all()


def test_a_descent_step_clips_to_the_norm_and_reports_it_unclipped() -> None:
    network = nn.Linear(2, 1, bias=False)
    flat = FlatParameters(network.parameters())
    before = flat.vector.detach().clone()
    sgd = torch.optim.SGD([flat.vector], lr=1.0)
    norm = flat.descend(network(torch.tensor([[3.0, 4.0]])).sum(), sgd, 0.5)
    assert float(norm) == 5.0
    torch.testing.assert_close(before - flat.vector.detach(), torch.tensor([0.3, 0.4]))
    before = flat.vector.detach().clone()
    flat.descend(network(torch.tensor([[3.0, 4.0]])).sum(), sgd, None)
    torch.testing.assert_close(before - flat.vector.detach(), torch.tensor([3.0, 4.0]))

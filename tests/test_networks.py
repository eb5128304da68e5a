"""Networks: initialisation as said, and one vector that is the module."""

import torch
from torch import nn

from rlkl.networks import FlatParameters, mlp, orthogonal_, uniform_


def test_orthogonal_initialisation_has_the_gains_asked_for() -> None:
    network = mlp(5, [8, 8], 3, "tanh")
    orthogonal_(network, 2**0.5, 0.01, torch.Generator().manual_seed(0))
    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, gain in zip(linears, (2**0.5, 2**0.5, 0.01), strict=True):
        singular = torch.linalg.svdvals(layer.weight)
        torch.testing.assert_close(singular, torch.full_like(singular, gain))
        assert not layer.bias.any()


def test_uniform_initialisation_stays_within_its_bound() -> None:
    network = mlp(16, [64], 4, "relu")
    uniform_(network, torch.Generator().manual_seed(0))
    weight = network[0].weight
    assert weight.abs().max() <= 0.25
    assert weight.abs().max() > 0.24
    assert network[0].bias.any()


def test_the_same_generator_gives_the_same_weights() -> None:
    first, second = mlp(3, [4], 2, "tanh"), mlp(3, [4], 2, "tanh")
    for network in (first, second):
        orthogonal_(network, 1.0, 1.0, torch.Generator().manual_seed(7))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_the_vector_is_the_module_and_its_gradient_the_modules() -> None:
    network = mlp(3, [4], 2, "tanh")
    flat = FlatParameters(network)
    assert flat.vector.numel() == 3 * 4 + 4 + 4 * 2 + 2
    flat.vector.data.fill_(0.5)
    assert all((parameter == 0.5).all() for parameter in network.parameters())
    network[0].bias.data.fill_(2.0)
    assert (flat.vector == 2.0).sum() == 4

    network(torch.ones(5, 3)).sum().backward()
    gathered = torch.cat([parameter.grad.reshape(-1) for parameter in network.parameters()])
    torch.testing.assert_close(flat.vector.grad, gathered, rtol=0, atol=0)
    assert flat.gradient.any()


def test_loading_a_state_keeps_the_vector_in_place() -> None:
    network = mlp(3, [4], 2, "tanh")
    flat = FlatParameters(network)
    network.load_state_dict({k: torch.ones_like(v) for k, v in network.state_dict().items()})
    assert (flat.vector == 1).all()


def test_a_descent_step_clips_to_the_norm_and_reports_it_unclipped() -> None:
    network = nn.Linear(2, 1, bias=False)
    flat = FlatParameters(network)
    before = flat.vector.detach().clone()
    sgd = torch.optim.SGD([flat.vector], lr=1.0)
    norm = flat.descend(network(torch.tensor([[3.0, 4.0]])).sum(), sgd, 0.5)
    assert float(norm) == 5.0
    torch.testing.assert_close(before - flat.vector.detach(), torch.tensor([0.3, 0.4]))
    before = flat.vector.detach().clone()
    flat.descend(network(torch.tensor([[3.0, 4.0]])).sum(), sgd, None)
    torch.testing.assert_close(before - flat.vector.detach(), torch.tensor([3.0, 4.0]))

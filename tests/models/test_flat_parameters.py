"""Parameters as one vector that shares memory with the modules."""

import numpy as np
import torch
from torch import nn

from rlkl.models.flat_parameters import FlatParameters
from rlkl.models.networks import mlp


def test_vector_and_module_share_values_and_gradients() -> None:
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


def test_vector_keeps_initial_values() -> None:
    layer = nn.GRU(2, 3)
    before = torch.cat([p.detach().flatten().clone() for p in layer.parameters()])
    features = torch.ones(4, 1, 2)
    outputs = layer(features)[0].detach()
    flat = FlatParameters(layer.parameters())
    assert torch.equal(flat.vector, before)
    assert torch.equal(layer(features)[0], outputs)
    flat.vector.data.zero_()
    assert not layer(features)[0].any()


def test_other_parameters_stay_out() -> None:
    network = mlp(3, [4], 2, "tanh")
    flat = FlatParameters(network[2].parameters())
    first = network[0].weight.detach().clone()
    flat.vector.data.zero_()
    assert torch.equal(network[0].weight, first)
    assert not network[2].weight.any()


def test_loading_state_keeps_vector_in_place() -> None:
    network = mlp(3, [4], 2, "tanh")
    flat = FlatParameters(network.parameters())
    network.load_state_dict({k: torch.ones_like(v) for k, v in network.state_dict().items()})
    assert (flat.vector == 1).all()


def test_arrays_are_views_with_parameter_shapes() -> None:
    flat = FlatParameters(mlp(3, [4], 2, "tanh").parameters())
    vector = torch.arange(26.0)
    arrays = flat.arrays(vector)
    assert [array.shape for array in arrays] == [(4, 3), (4,), (2, 4), (2,)]
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in arrays]), vector)
    arrays[1][2] = -1
    assert vector[14] == -1

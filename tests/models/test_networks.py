"""Networks: shapes, initialization and scaling of images."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, nn

from rlkl.models.networks import (
    ACTIVATIONS,
    Encoder,
    ImageEncoder,
    Residual,
    chosen_encoder,
    hidden_layers,
    impala_cnn,
    mlp,
    nature_cnn,
    orthogonal_,
    small_cnn,
    strided_cnn,
    uniform_,
)
from rlkl.models.policy import Inputs, Network
from rlkl.models.recurrent import Memory
from rlkl.utils.config_upgrades import upgrade_section
from rlkl.utils.errors import ConfigError


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def images_of(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=seeded(), dtype=torch.uint8)


def test_orthogonal_initialization_has_requested_gains() -> None:
    network = mlp(5, [8, 8], 3, "tanh")
    orthogonal_(network, 2**0.5, 0.01, seeded())
    linears = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, gain in zip(linears, (2**0.5, 2**0.5, 0.01), strict=True):
        singular = torch.linalg.svdvals(layer.weight)
        torch.testing.assert_close(singular, torch.full_like(singular, gain))
        assert not layer.bias.any()


def test_orthogonal_initialization_covers_kernels_and_memories() -> None:
    features = 7
    images = {"image": ImageEncoder((2, 6, 6), "small", features, 255.0)}
    memory = Memory("lstm", features, 5)
    network = Network(Encoder(None, images), memory, mlp(5, [], 3, "tanh"))
    for parameter in network.parameters():
        nn.init.constant_(parameter, 3.0)
    orthogonal_(network, 1.7, 0.2, seeded())
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rows = layer.weight.detach().flatten(1)
            found.append(0.2 if layer is network.head[0] else 1.7)
            # Only the shorter side of a matrix can be orthonormal.
            gram = rows @ rows.T if rows.shape[0] <= rows.shape[1] else rows.T @ rows
            expected = found[-1] ** 2 * torch.eye(len(gram))
            torch.testing.assert_close(gram, expected, rtol=1e-5, atol=1e-5)
            assert not layer.bias.any()
    assert found == [1.7] * 4 + [0.2]
    for name, parameter in memory.named_parameters():
        if parameter.ndim == 1:
            assert not parameter.any(), name
        else:
            gram = parameter.detach().T @ parameter.detach()
            torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=1e-5, atol=1e-5)


def test_uniform_initialization_stays_within_its_bound() -> None:
    network = mlp(16, [64], 4, "relu")
    uniform_(network, seeded())
    weight = network[0].weight
    assert weight.abs().max() <= 0.25
    assert weight.abs().max() > 0.24
    assert network[0].bias.any()


@pytest.mark.parametrize(
    ("layer", "bound"),
    [(nn.Conv2d(4, 32, 3), 1 / 6), (Memory("gru", 3, 25), 0.2), (Memory("lstm", 3, 25), 0.2)],
)
def test_uniform_initialization_of_kernels_and_memories(layer: nn.Module, bound: float) -> None:
    uniform_(layer, seeded())
    for parameter in layer.parameters():
        assert 0.85 * bound < parameter.abs().max() <= bound


@pytest.mark.parametrize("initialize", [lambda n, g: orthogonal_(n, 1.0, 1.0, g), uniform_])
def test_same_generator_gives_same_weights(initialize: object) -> None:
    def network() -> nn.Module:
        images = {"image": ImageEncoder((1, 4, 4), "small", 5, 255.0)}
        return Network(Encoder(None, images), Memory("gru", 5, 3), mlp(3, [4], 2, "tanh"))

    first, second = network(), network()
    for one in (first, second):
        initialize(one, seeded(7))  # type: ignore[operator]
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_alternates_linear_layers_and_activations(activation: str) -> None:
    network = mlp(3, [4, 5], 2, activation)
    kinds = [nn.Linear, ACTIVATIONS[activation]] * 2 + [nn.Linear]
    assert [type(layer) for layer in network] == kinds
    assert network(torch.ones(7, 3)).shape == (7, 2)
    assert [type(layer) for layer in hidden_layers(3, [4], activation)] == kinds[:2]
    assert len(hidden_layers(3, [], activation)) == 0
    assert [tuple(layer.weight.shape) for layer in mlp(3, [], 2, activation)] == [(2, 3)]


def test_nature_has_shapes_of_mnih_2015() -> None:
    network = nature_cnn(4)
    assert network(torch.zeros(2, 4, 84, 84)).shape == (2, 64, 7, 7)
    weights = (4 * 8 * 8 * 32 + 32) + (32 * 4 * 4 * 64 + 64) + (64 * 3 * 3 * 64 + 64)
    assert count(network) == weights == 77984
    encoder = ImageEncoder((4, 84, 84), "nature", 512, 255.0)
    assert encoder.linear.in_features == 3136
    assert count(encoder) == 77984 + 3136 * 512 + 512
    assert nature_cnn(1)(torch.zeros(1, 1, 36, 36)).shape == (1, 64, 1, 1)
    with pytest.raises(RuntimeError):
        nature_cnn(1)(torch.zeros(1, 1, 35, 35))


def test_impala_has_shapes_of_espeholt_2018() -> None:
    network = impala_cnn(4)
    assert network(torch.zeros(2, 4, 84, 84)).shape == (2, 32, 11, 11)
    assert network(torch.zeros(2, 4, 5, 7)).shape == (2, 32, 1, 1)

    def conv(before: int, after: int) -> int:
        return before * after * 9 + after

    stages = ((4, 16), (16, 32), (32, 32))
    assert count(network) == sum(conv(a, b) + 4 * conv(b, b) for a, b in stages) == 97744
    assert (network(torch.randn(2, 4, 9, 9)) >= 0).all()


def test_small_keeps_image_size() -> None:
    network = small_cnn(3)
    assert network(torch.zeros(2, 3, 1, 5)).shape == (2, 32, 1, 5)
    assert count(network) == (3 * 9 * 16 + 16) + (16 * 9 * 32 + 32) + (32 * 9 * 32 + 32)


@pytest.mark.parametrize(
    ("height", "width", "kind"),
    [
        (7, 7, "small"), (8, 8, "small"), (10, 3, "small"), (11, 11, "strided"),
        (16, 16, "strided"), (32, 32, "strided"), (35, 35, "strided"), (35, 90, "strided"),
        (36, 36, "nature"), (64, 64, "nature"), (84, 84, "nature"), (40, 120, "nature"),
        (128, 128, "nature"), (96, 160, "strided"), (256, 256, "strided"), (8, 256, "strided"),
    ],
)  # fmt: skip
def test_auto_makes_sensible_networks_of_any_size(height: int, width: int, kind: str) -> None:
    auto, chosen = (ImageEncoder((3, height, width), k, 512, 255.0) for k in ("auto", kind))
    shapes = [[p.shape for p in encoder.parameters()] for encoder in (auto, chosen)]
    assert shapes[0] == shapes[1]
    assert 100_000 < count(auto) < 5_000_000
    assert auto(images_of(2, 3, height, width)).shape == (2, 512)


@pytest.mark.parametrize(
    ("side", "shape"), [(8, (8, 8)), (9, (5, 5)), (32, (8, 8)), (35, (5, 5)), (256, (8, 8))]
)
def test_strided_convolutions_leave_eight_pixels(side: int, shape: tuple[int, int]) -> None:
    assert strided_cnn(1, side, side)(torch.zeros(1, 1, side, side)).shape == (1, 64, *shape)
    assert strided_cnn(1, 4, side)(torch.zeros(1, 1, 4, side)).shape[2] == 4


def test_older_auto_is_nature_or_small() -> None:
    for side, kind in ((35, "small"), (36, "nature"), (256, "nature")):
        assert chosen_encoder("nature_or_small", side, side) == kind
    older, newer = {"image_encoder": "auto"}, {"image_encoder": "auto", "scale_actions": True}
    assert upgrade_section("policy", older)["image_encoder"] == "nature_or_small"
    assert upgrade_section("policy", newer)["image_encoder"] == "auto"


def test_images_too_small_for_nature_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"images of 32 × 40 are too small .*image_encoder=auto"):
        ImageEncoder((3, 32, 40), "nature", 4, 255.0)


def test_residual_block_adds_to_its_input() -> None:
    block, images = Residual(3), torch.randn(2, 3, 5, 5, generator=seeded())
    first, second = block.first, block.second
    inner = F.conv2d(images.relu(), first.weight, first.bias, padding=1).relu()
    expected = images + F.conv2d(inner, second.weight, second.bias, padding=1)
    torch.testing.assert_close(block(images), expected)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(block(images), images)


@pytest.mark.parametrize("kind", ["nature", "impala", "small", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_are_scaled_convolved_and_projected(kind: str, dtype: torch.dtype) -> None:
    encoder = ImageEncoder((3, 40, 40), kind, 6, 100.0).to(dtype)
    images = images_of(2, 3, 40, 40)
    features = encoder(images)
    assert features.dtype == dtype
    assert features.shape == (2, 6)
    flat = encoder.convolutions(images.to(dtype) / 100).reshape(2, -1)
    expected = (flat @ encoder.linear.weight.T + encoder.linear.bias).clamp(min=0)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(images[1:]), features[1:], rtol=1e-4, atol=1e-5)
    assert images.dtype == torch.uint8


def test_encoder_concatenates_vector_then_images_in_order() -> None:
    images = {"image/b": ImageEncoder((1, 3, 3), "small", 4, 1.0)}
    images["image/a"] = ImageEncoder((1, 2, 2), "small", 3, 1.0)
    encoder = Encoder(hidden_layers(5, [2], "tanh"), images)
    observations = {
        "image/a": images_of(6, 1, 2, 2),
        "image/b": images_of(6, 1, 3, 3),
        "vector": torch.randn(6, 5, generator=seeded()),
        "action_mask": torch.ones(6, 3, dtype=torch.bool),
    }
    assert encoder.vector is not None
    parts = [
        encoder.vector(observations["vector"]),
        images["image/b"](observations["image/b"]),
        images["image/a"](observations["image/a"]),
    ]
    torch.testing.assert_close(encoder(observations), torch.cat(parts, -1))


def test_rows_without_sequences_are_separate_steps() -> None:
    memory = Memory("gru", 2, 3)
    network = Network(Encoder(nn.Sequential(), {}), memory, mlp(3, [], 1, "tanh"))
    observations = {"vector": torch.randn(4, 2, generator=seeded())}
    states = torch.randn(4, 3, generator=seeded(1))
    outputs, after = network.step(observations, states)
    torch.testing.assert_close(network(Inputs(observations), states), outputs)
    cell = nn.GRUCell(2, 3)
    cell.load_state_dict({k[:-3]: v for k, v in memory.layer.state_dict().items()})
    torch.testing.assert_close(after, cell(observations["vector"], states))
    torch.testing.assert_close(outputs, network.head(after))

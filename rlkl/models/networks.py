"""MLPs and convolutional encoders of a policy, and weight initialization."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from rlkl.envs.observations import VECTOR
from rlkl.utils.errors import ConfigError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
IMAGE_ENCODERS = ("auto", "nature", "impala", "small", "strided", "nature_or_small")

NATURE_SIDES = 36, 128
"""Smallest and largest side in pixels for which `auto` selects the network of Mnih 2015: it cannot
take smaller images, and its linear layer grows with the area."""

GRID_SIDE = 10  # largest side in cells of an image that `auto` treats as a grid
STRIDED_SIDE = 8  # largest side in pixels after the strided convolutions


def mlp(
    input_size: int,
    hidden_sizes: Sequence[int],
    output_size: int,
    activation: str,
    layer_norm: bool = False,
) -> nn.Sequential:
    """Make a multilayer perceptron, `[B, input_size]` to `[B, output_size]`."""
    layers = hidden_layers(input_size, hidden_sizes, activation, layer_norm)
    return layers.append(nn.Linear([input_size, *hidden_sizes][-1], output_size))


def hidden_layers(
    input_size: int, sizes: Sequence[int], activation: str, layer_norm: bool = False
) -> nn.Sequential:
    """Make linear layers with an activation after each, `[B, input_size]` to `[B, sizes[-1]]`.

    Layer normalization (Ba 2016) is between a linear layer and its activation: γ (x - E[x]) /
    √(Var[x] + 1e-5) + β over the layer's units, with γ = 1 and β = 0 at the start.
    """
    layers: list[nn.Module] = []
    for before, after in zip([input_size, *sizes], sizes, strict=False):
        normalization = [nn.LayerNorm(after)] if layer_norm else []
        layers += [nn.Linear(before, after), *normalization, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """Residual block x + conv(relu(conv(relu(x)))) of 3 × 3 kernels, for `[B, channels, H, W]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the images plus the residual."""
        residual: Tensor = self.second(self.first(images.relu()).relu())
        return images + residual


def nature_cnn(channels: int) -> nn.Sequential:
    """Make the three convolutions of Mnih 2015, for images of at least 36 × 36."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 32, 8, stride=4), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
        *(nn.Conv2d(64, 64, 3), nn.ReLU()),
    )


def impala_cnn(channels: int) -> nn.Sequential:
    """Make the residual network of IMPALA (Espeholt 2018, figure 3), for images of any size.

    Three stages of a convolution, a max-pooling that halves the image, and two residual blocks.
    """
    layers: list[nn.Module] = []
    for depth in (16, 32, 32):
        layers += [
            nn.Conv2d(channels, depth, 3, padding=1),
            nn.MaxPool2d(3, stride=2, padding=1),
            Residual(depth),
            Residual(depth),
        ]
        channels = depth
    return nn.Sequential(*layers, nn.ReLU())


def small_cnn(channels: int) -> nn.Sequential:
    """Make three 3 × 3 convolutions that keep the image's size, for grids of a few cells."""
    return nn.Sequential(
        *(nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()),
    )


def strided_cnn(channels: int, height: int, width: int) -> nn.Sequential:
    """Make 3 × 3 convolutions that halve each side until it has 8 pixels or fewer."""
    layers: list[nn.Module] = []
    sides = height, width
    while max(sides) > STRIDED_SIDE or len(layers) < 4:
        depth = 64 if layers else 32
        stride = 1 + (sides[0] > STRIDED_SIDE), 1 + (sides[1] > STRIDED_SIDE)
        layers += [nn.Conv2d(channels, depth, 3, stride, padding=1), nn.ReLU()]
        channels, sides = depth, (-(-sides[0] // stride[0]), -(-sides[1] // stride[1]))
    return nn.Sequential(*layers)


def chosen_encoder(kind: str, height: int, width: int) -> str:
    """Return the network that `policy.image_encoder` selects for images of a size.

    Raises:
        ConfigError: the image is too small for `nature`.
    """
    shortest, longest = min(height, width), max(height, width)
    if kind == "auto":
        if NATURE_SIDES[0] <= shortest and longest <= NATURE_SIDES[1]:
            return "nature"
        return "small" if longest <= GRID_SIDE else "strided"
    if kind == "nature_or_small":
        return "nature" if shortest >= NATURE_SIDES[0] else "small"
    if kind == "nature" and shortest < NATURE_SIDES[0]:
        raise ConfigError(
            f"policy.image_encoder=nature: images of {height} × {width} are too small for it; "
            f"expected {NATURE_SIDES[0]} × {NATURE_SIDES[0]} or more, or policy.image_encoder=auto"
        )
    return kind


class ImageEncoder(nn.Module):
    """Map images to F features: bytes are scaled, convolved, flattened, and pass a linear layer."""

    def __init__(
        self, shape: tuple[int, int, int], kind: str, feature_size: int, pixel_scale: float
    ) -> None:
        super().__init__()
        kind = chosen_encoder(kind, *shape[1:])
        if kind == "strided":
            self.convolutions = strided_cnn(*shape)
        else:
            cnn = {"nature": nature_cnn, "impala": impala_cnn, "small": small_cnn}[kind]
            self.convolutions = cnn(shape[0])
        with torch.no_grad():
            flat_size = self.convolutions(torch.zeros(1, *shape)).numel()
        self.linear = nn.Linear(flat_size, feature_size)
        self.pixel_scale = pixel_scale

    def forward(self, images: Tensor) -> Tensor:
        """Return features `[B, F]` of images `[B, C, H, W]`, uint8."""
        # Convolutions on a CPU are faster with the channels last, and bytes are moved faster.
        last, dtype = torch.channels_last, self.linear.weight.dtype
        scaled = images.contiguous(memory_format=last).to(dtype, memory_format=last)
        scaled /= self.pixel_scale
        features: Tensor = self.linear(self.convolutions(scaled).flatten(1)).relu()
        return features


class Encoder(nn.Module):
    """Map observations to features: those of the vector, if any, then those of each image.

    `columns` are those of the vector that it reads, `[D]`; None for all.
    """

    columns: Tensor | None

    def __init__(
        self,
        vector: nn.Sequential | None,
        images: dict[str, ImageEncoder],
        columns: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("columns", columns, persistent=False)
        self.vector = vector
        self.image_keys = tuple(images)
        self.images = nn.ModuleList(images.values())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return features `[B, F]`."""
        parts = []
        if self.vector is not None:
            parts.append(self.vector(of_columns(observations[VECTOR], self.columns)))
        for key, encoder in zip(self.image_keys, self.images, strict=True):
            parts.append(encoder(observations[key]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)


def of_columns(vectors: Tensor, columns: Tensor | None) -> Tensor:
    """Return some columns of vectors `[B, D]`; None for all."""
    return vectors if columns is None else vectors.index_select(-1, columns)


def orthogonal_(
    network: nn.Module, hidden_gain: float, output_gain: float, generator: Generator
) -> None:
    """Initialize weights as scaled orthogonal matrices and biases as 0 (Saxe 2014).

    A kernel is a matrix with a row for each output channel. Matrices of a memory have gain 1, the
    last linear or convolutional layer has the output gain, the others the hidden gain.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers:
        gain = output_gain if layer is layers[-1] else hidden_gain
        nn.init.orthogonal_(layer.weight, gain, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    for memory in (m for m in network.modules() if isinstance(m, nn.RNNBase)):
        for parameter in memory.parameters():
            if parameter.ndim > 1:
                nn.init.orthogonal_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)


def uniform_(network: nn.Module, generator: Generator) -> None:
    """Initialize weights and biases uniformly within ±1/√fan_in, as torch does by default.

    The fan-in of a memory is its hidden size.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            fan_in = layer.weight[0].numel()
        elif isinstance(layer, nn.RNNBase):
            fan_in = layer.hidden_size
        else:
            continue
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)

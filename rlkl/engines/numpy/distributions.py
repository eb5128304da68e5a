"""What losses are made of, and its slopes by hand: log-probability, KL and entropy, in NumPy.

The two families that nearly every run uses have all of it in closed form. `distributions` is the
definition; here stands how each quantity changes with the distribution's parameters. For 64 rows of
six dimensions a loss and its slopes take 70 µs so, and 510 where torch differentiates those
definitions.
"""

import math
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


class ClosedForm(Protocol):
    """B distributions, the actions that were taken and π_old.

    Attributes:
        log_prob: log π(a|s) in nats, `[B]`.
    """

    log_prob: Array

    def __init__(self, parameters: Array, actions: NDArray[Any], old_parameters: Array) -> None: ...

    @staticmethod
    def of_old(parameters: Array) -> Array:
        """Return what `old_parameters` are to be for the KL: once a batch, not once a minibatch.

        They make the same distributions.

        Args:
            parameters: of π_old, `[B, P]`.
        """
        ...

    def kl(self) -> Array:
        """Return KL(π_old ‖ π) in nats, `[B]`."""
        ...

    def mean_kl(self) -> float:
        """Return the mean of `kl`."""
        ...

    def entropy(self) -> Array:
        """Return the entropy in nats, `[B]`."""
        ...

    def slopes(self, of_log_prob: Array, of_kl: float = 0.0, of_entropy: float = 0.0) -> Array:
        """Return ∂loss/∂parameters, `[B, P]`.

        Args:
            of_log_prob: ∂loss/∂log π(a|s) of each row, `[B]`.
            of_kl: ∂loss/∂KL(π_old ‖ π), the same for each row.
            of_entropy: ∂loss/∂H, the same for each row.
        """
        ...


class CategoricalForm:
    """Categoricals of A actions.

    ∂log π(a)/∂logits = onehot(a) - π, ∂KL(π_old ‖ π)/∂logits = π - π_old and
    ∂H/∂logits = -π · (log π + H).

    Args:
        parameters: logits, `[B, A]`; -inf where an action is masked, in old and new alike.
        actions: `[B]`.
        old_parameters: log π_old, `[B, A]`; where no KL is asked for, any logits.
    """

    def __init__(self, parameters: Array, actions: NDArray[Any], old_parameters: Array) -> None:
        self._log_p, self._p = _log_softmax(parameters)
        self._chosen = (np.arange(len(actions)), actions)
        self._old_parameters = old_parameters
        self.log_prob = self._log_p[self._chosen]

    @staticmethod
    def of_old(parameters: Array) -> Array:
        """Return log π_old for logits, `[B, A]`."""
        return _log_softmax(parameters)[0]

    def kl(self) -> Array:
        """Return KL(π_old ‖ π) in nats, `[B]`."""
        possible = self._old_p > 0
        with np.errstate(invalid="ignore"):  # inf - inf where both are masked
            difference = np.where(possible, self._old_parameters - self._log_p, 0)
        return _row_sums(self._old_p * difference)

    def mean_kl(self) -> float:
        """Return the mean of `kl`, in less than half the time where every action is possible."""
        with np.errstate(invalid="ignore"):
            total = float(np.vdot(self._old_p, self._old_parameters - self._log_p))
        return float(self.kl().mean()) if math.isnan(total) else total / len(self._p)

    def entropy(self) -> Array:
        """Return the entropy in nats, `[B]`."""
        return -_row_sums(self._p * self._finite_log_p)

    @cached_property
    def _old_p(self) -> Array:
        return np.exp(self._old_parameters)

    @property
    def _finite_log_p(self) -> Array:
        return np.where(self._p > 0, self._log_p, 0)

    def slopes(self, of_log_prob: Array, of_kl: float = 0.0, of_entropy: float = 0.0) -> Array:
        """Return ∂loss/∂logits, `[B, A]`; see `ClosedForm`."""
        slopes: Array = self._p * -of_log_prob[:, None]
        slopes[self._chosen] += of_log_prob
        if of_kl:
            # Both rounded alike, so that it is exactly 0 at π_old.
            slopes += of_kl * (np.exp(self._log_p) - self._old_p)
        if of_entropy:
            slopes -= of_entropy * self._p * (self._finite_log_p + self.entropy()[:, None])
        return slopes


class GaussianForm:
    """Gaussians of D independent dimensions.

    With z = (a - μ)/σ: ∂log π(a)/∂μ = z/σ, ∂log π(a)/∂log σ = z² - 1; ∂KL(π_old ‖ π)/∂μ =
    (μ - μ_old)/σ², ∂KL(π_old ‖ π)/∂log σ = 1 - (σ_old² + (μ - μ_old)²)/σ²; ∂H/∂log σ = 1.

    Args:
        parameters: means, then logarithms of the standard deviations, `[B, 2D]`.
        actions: `[B, D]`.
        old_parameters: those of π_old, `[B, 2D]`.
    """

    def __init__(self, parameters: Array, actions: Array, old_parameters: Array) -> None:
        self._size = size = parameters.shape[1] // 2
        self._mean, self._log_std = parameters[:, :size], parameters[:, size:]
        self._old_mean, self._old_log_std = old_parameters[:, :size], old_parameters[:, size:]
        self._inverse_std = np.exp(-self._log_std)
        self._z = (actions - self._mean) * self._inverse_std
        self._z_squared = self._z * self._z
        constant = 0.5 * math.log(2 * math.pi) * size
        self.log_prob = -_row_sums(0.5 * self._z_squared + self._log_std) - constant

    @staticmethod
    def of_old(parameters: Array) -> Array:
        """Return the parameters."""
        return parameters

    def kl(self) -> Array:
        """Return KL(π_old ‖ π) in nats, `[B]`."""
        delta = self._old_log_std - self._log_std
        distance = (self._old_mean - self._mean) * self._inverse_std
        terms: Array = 0.5 * (np.expm1(2 * delta) - 2 * delta + distance * distance)
        return _row_sums(terms)

    def mean_kl(self) -> float:
        """Return the mean of `kl`."""
        return float(np.add.reduce(self.kl())) / len(self._z)

    def entropy(self) -> Array:
        """Return the entropy in nats, `[B]`."""
        constant = 0.5 * math.log(2 * math.pi * math.e) * self._size
        entropy: Array = _row_sums(self._log_std) + constant
        return entropy

    def slopes(self, of_log_prob: Array, of_kl: float = 0.0, of_entropy: float = 0.0) -> Array:
        """Return ∂loss/∂(μ, log σ), `[B, 2D]`; see `ClosedForm`."""
        slopes = np.empty((len(self._z), 2 * self._size), self._z.dtype)
        of_mean, of_log_std = slopes[:, : self._size], slopes[:, self._size :]
        weights = of_log_prob[:, None]
        np.multiply(self._z * self._inverse_std, weights, out=of_mean)
        np.multiply(self._z_squared - 1, weights, out=of_log_std)
        if of_kl:
            distance = (self._mean - self._old_mean) * self._inverse_std
            of_mean += of_kl * distance * self._inverse_std
            delta = self._old_log_std - self._log_std
            of_log_std -= of_kl * (np.expm1(2 * delta) + distance * distance)
        if of_entropy:
            of_log_std += of_entropy
        return slopes


def categorical_fisher(parameters: Array, changes: Array) -> Array:
    """Return F u of each row for the Fisher matrix F = diag(π) - π πᵀ of logits, `[B, A]`.

    Args:
        parameters: logits, `[B, A]`.
        changes: u, `[B, A]`.
    """
    p = _log_softmax(parameters)[1]
    weighted: Array = p * changes
    return weighted - p * _row_sums(weighted)[:, None]


def two_action_root(parameters: Array) -> Array:
    """Return e with F = e eᵀ for the Fisher matrix of two logits, e = √(π₀ π₁) · (1, -1).

    Args:
        parameters: logits, `[B, 2]`.
    """
    root: Array = np.sqrt(np.multiply.reduce(_log_softmax(parameters)[1], 1))
    return np.stack((root, -root), 1)


def gaussian_fisher(parameters: Array, changes: Array) -> Array:
    """Return F u of each row for the Fisher matrix F = diag(1/σ², 2) of (μ, log σ), `[B, 2D]`.

    Args:
        parameters: means, then logarithms of the standard deviations, `[B, 2D]`.
        changes: u, `[B, 2D]`.
    """
    size = parameters.shape[1] // 2
    images = 2 * changes
    np.multiply(changes[:, :size], np.exp(-2 * parameters[:, size:]), out=images[:, :size])
    return images


def _log_softmax(logits: Array) -> tuple[Array, Array]:
    """Return log π and π, `[B, A]` each."""
    shifted = logits - _row_maxima(logits)[:, None]
    p = np.exp(shifted)
    total = _row_sums(p)[:, None]
    p /= total
    shifted -= np.log(total)
    return shifted, p


# NumPy reduces a short last axis row by row: 60 µs for 2048 rows of 6, a product with ones takes 5.
def _row_sums(rows: Array) -> Array:
    sums: Array = np.dot(rows, _ones(rows.shape[1], rows.dtype))
    return sums


@cache
def _ones(count: int, dtype: np.dtype[Any]) -> Array:
    return np.ones(count, dtype)


def _row_maxima(rows: Array) -> Array:
    maxima: Array = np.maximum.reduce(rows.T.copy(), 0)
    return maxima

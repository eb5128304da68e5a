"""The quantities of `numerics.distributions` in NumPy, with derivatives to the parameters."""

import math
from abc import abstractmethod
from dataclasses import replace
from functools import cache, cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rlkl.engines.base import Loss, NewPolicy
from rlkl.engines.numpy.rows import Rows
from rlkl.numerics.distributions import Distribution

Array = NDArray[np.floating[Any]]


class ClosedForm(NewPolicy):
    """`NewPolicy` for a family with closed forms, from its parameters `[B, P]` and a minibatch."""

    xp = np
    ratio = cached_property(lambda self: np.exp(self.log_prob - self._old_log_prob))

    def __init__(self, parameters: Array, rows: Rows) -> None:
        self._old_log_prob = rows.old_log_prob
        self._given = parameters, rows

    @staticmethod
    def prepare_old(parameters: Array) -> Array:
        """Return parameters of π_old, `[B, P]`, in the form that `kl` needs."""
        return parameters

    @abstractmethod
    def derivative(self, loss: Loss) -> Array:
        """Return ∂loss/∂parameters, `[B, P]`."""

    @staticmethod
    @abstractmethod
    def fisher(parameters: Array, changes: Array) -> Array:
        """Return F u of each row, `[B, P]`, with the Fisher matrix F of the parameters."""

    @cached_property
    def reference(self) -> Self:
        """The same with π_ref in place of π_old."""
        parameters, rows = self._given
        return type(self)(parameters, replace(rows, old_parameters=rows.reference_parameters))

    def total_derivative(self, loss: Loss) -> Array:
        """Return `derivative`, and that of the KLs to π_ref."""
        derivative = self.derivative(loss)
        if not (_is_zero(loss.reference_kl) and _is_zero(loss.reverse_reference_kl)):
            of_reference = Loss(
                0.0,
                np.zeros_like(self.log_prob),
                kl=loss.reference_kl,
                reverse_kl=loss.reverse_reference_kl,
            )
            derivative += self.reference.derivative(of_reference)
        return derivative

    @cached_property
    def distribution(self) -> Distribution:
        """Not available: objectives with `uses_distribution` get a `TorchPolicy`."""
        raise AttributeError("an objective that needs `distribution` sets uses_distribution = True")

    def mean_kl(self) -> np.float64:
        """Return the mean of `kl`."""
        return np.float64(np.add.reduce(self.kl)) / len(self.log_prob)

    def mean_entropy(self) -> np.float64:
        """Return the mean of `entropy`."""
        return np.float64(self.entropy.mean())


class CategoricalForm(ClosedForm):
    """Categorical distributions of A actions.

    ∂log π(a)/∂logits = onehot(a) - π, ∂KL(π_old ‖ π)/∂logits = π - π_old,
    ∂KL(π ‖ π_old)/∂logits = π · (log π - log π_old - KL(π ‖ π_old)) and
    ∂H/∂logits = -π · (log π + H).

    Args:
        parameters: logits, `[B, A]`; -inf where an action is masked, in old and new alike.
        rows: `old_parameters` are log π_old, `[B, A]`; any logits if the KL is not used.
    """

    def __init__(self, parameters: Array, rows: Rows) -> None:
        super().__init__(parameters, rows)
        self._log_p, self._p = _log_softmax(parameters)
        self._chosen = (np.arange(len(parameters)), rows.actions)
        self._old_parameters = rows.old_parameters
        self.log_prob = self._log_p[self._chosen]

    @staticmethod
    def prepare_old(parameters: Array) -> Array:
        """Return log π_old for logits, `[B, A]`."""
        return _log_softmax(parameters)[0]

    @cached_property
    def kl(self) -> Array:
        """KL(π_old ‖ π) in nats, `[B]`."""
        possible = self._old_p > 0
        with np.errstate(invalid="ignore"):  # inf - inf where both are masked
            difference = np.where(possible, self._old_parameters - self._log_p, 0)
        return _row_sums(self._old_p * difference)

    def mean_kl(self) -> np.float64:
        """Return the mean of `kl`; fast if no action is masked."""
        with np.errstate(invalid="ignore"):
            total = np.float64(np.vdot(self._old_p, self._old_parameters - self._log_p))
        return np.float64(self.kl.mean()) if np.isnan(total) else total / len(self._p)

    @cached_property
    def reverse_kl(self) -> Array:
        """KL(π ‖ π_old) in nats, `[B]`."""
        return _row_sums(self._p * self._log_ratio)

    @cached_property
    def entropy(self) -> Array:
        """The entropy in nats, `[B]`."""
        return -_row_sums(self._p * self._finite_log_p)

    _old_p = cached_property(lambda self: np.exp(self._old_parameters))
    _finite_log_p = property(lambda self: np.where(self._p > 0, self._log_p, 0))

    @cached_property
    def _log_ratio(self) -> Array:
        """Log π - log π_old, 0 where π is 0."""
        with np.errstate(invalid="ignore"):  # inf - inf where both are masked
            return np.where(self._p > 0, self._log_p - self._old_parameters, 0)

    def derivative(self, loss: Loss) -> Array:
        """Return ∂loss/∂logits, `[B, A]`."""
        derivative: Array = self._p * -loss.log_prob[:, None]
        derivative[self._chosen] += loss.log_prob
        if not _is_zero(loss.kl):
            # `self._p` is rounded differently; this difference is exactly 0 at π_old.
            derivative += _column(loss.kl) * (np.exp(self._log_p) - self._old_p)
        if not _is_zero(loss.reverse_kl):
            centered = self._log_ratio - self.reverse_kl[:, None]
            derivative += _column(loss.reverse_kl) * self._p * centered
        if not _is_zero(loss.entropy):
            centered = self._finite_log_p + self.entropy[:, None]
            derivative -= _column(loss.entropy) * self._p * centered
        return derivative

    @staticmethod
    def fisher(parameters: Array, changes: Array) -> Array:
        """Return F u with F = diag(π) - π πᵀ for logits, `[B, A]`."""
        p = _log_softmax(parameters)[1]
        weighted: Array = p * changes
        return weighted - p * _row_sums(weighted)[:, None]


class GaussianForm(ClosedForm):
    """Gaussian distributions of D independent dimensions.

    With z = (a - μ)/σ: ∂log π(a)/∂μ = z/σ, ∂log π(a)/∂log σ = z² - 1; ∂KL(π_old ‖ π)/∂μ =
    (μ - μ_old)/σ², ∂KL(π_old ‖ π)/∂log σ = 1 - (σ_old² + (μ - μ_old)²)/σ²; ∂KL(π ‖ π_old)/∂μ =
    (μ - μ_old)/σ_old², ∂KL(π ‖ π_old)/∂log σ = σ²/σ_old² - 1; ∂H/∂log σ = 1.

    Args:
        parameters: means, then log standard deviations, `[B, 2D]`.
        rows: `actions` are `[B, D]`.
    """

    def __init__(self, parameters: Array, rows: Rows) -> None:
        super().__init__(parameters, rows)
        self._size = size = parameters.shape[1] // 2
        self._mean, self._log_std = parameters[:, :size], parameters[:, size:]
        self._old_mean = rows.old_parameters[:, :size]
        self._old_log_std = rows.old_parameters[:, size:]
        self._inverse_std = np.exp(-self._log_std)
        self._z = (rows.actions - self._mean) * self._inverse_std
        self._z_squared = self._z * self._z
        constant = 0.5 * math.log(2 * math.pi) * size
        self.log_prob = -_row_sums(0.5 * self._z_squared + self._log_std) - constant

    @cached_property
    def kl(self) -> Array:
        """KL(π_old ‖ π) in nats, `[B]`."""
        delta = self._old_log_std - self._log_std
        distance = (self._old_mean - self._mean) * self._inverse_std
        return _row_sums(0.5 * (np.expm1(2 * delta) - 2 * delta + distance * distance))

    @cached_property
    def reverse_kl(self) -> Array:
        """KL(π ‖ π_old) in nats, `[B]`."""
        delta, distance = self._log_std - self._old_log_std, self._old_distance
        return _row_sums(0.5 * (np.expm1(2 * delta) - 2 * delta + distance * distance))

    @property
    def _old_distance(self) -> Array:
        """(μ - μ_old) / σ_old."""
        distance: Array = (self._mean - self._old_mean) * np.exp(-self._old_log_std)
        return distance

    @cached_property
    def entropy(self) -> Array:
        """The entropy in nats, `[B]`."""
        constant = 0.5 * math.log(2 * math.pi * math.e) * self._size
        entropy: Array = _row_sums(self._log_std) + constant
        return entropy

    def derivative(self, loss: Loss) -> Array:
        """Return ∂loss/∂(μ, log σ), `[B, 2D]`."""
        derivative = np.empty((len(self._z), 2 * self._size), self._z.dtype)
        of_mean, of_log_std = derivative[:, : self._size], derivative[:, self._size :]
        weights = loss.log_prob[:, None]
        np.multiply(self._z * self._inverse_std, weights, out=of_mean)
        np.multiply(self._z_squared - 1, weights, out=of_log_std)
        if not _is_zero(loss.kl):
            of_kl = _column(loss.kl)
            distance = (self._mean - self._old_mean) * self._inverse_std
            of_mean += of_kl * distance * self._inverse_std
            delta = self._old_log_std - self._log_std
            of_log_std -= of_kl * (np.expm1(2 * delta) + distance * distance)
        if not _is_zero(loss.reverse_kl):
            of_kl = _column(loss.reverse_kl)
            of_mean += of_kl * self._old_distance * np.exp(-self._old_log_std)
            of_log_std += of_kl * np.expm1(2 * (self._log_std - self._old_log_std))
        if not _is_zero(loss.entropy):
            of_log_std += _column(loss.entropy)
        return derivative

    @staticmethod
    def fisher(parameters: Array, changes: Array) -> Array:
        """Return F u with F = diag(1/σ², 2) for (μ, log σ), `[B, 2D]`."""
        size = parameters.shape[1] // 2
        images = 2 * changes
        np.multiply(changes[:, :size], np.exp(-2 * parameters[:, size:]), out=images[:, :size])
        return images


def _is_zero(number: float | Array) -> bool:
    return not isinstance(number, np.ndarray) and not number


def _column(number: float | Array) -> float | Array:
    return number[:, None] if isinstance(number, np.ndarray) else number


def two_action_root(parameters: Array) -> Array:
    """Return e = √(π₀ π₁) · (1, -1), with which F = e eᵀ is the Fisher matrix of two logits."""
    root: Array = np.sqrt(np.multiply.reduce(_log_softmax(parameters)[1], 1))
    return np.stack((root, -root), 1)


def _log_softmax(logits: Array) -> tuple[Array, Array]:
    """Return log π and π, `[B, A]` each."""
    shifted = logits - np.maximum.reduce(logits.T.copy(), 0)[:, None]
    p = np.exp(shifted)
    total = _row_sums(p)[:, None]
    p /= total
    shifted -= np.log(total)
    return shifted, p


# A product with ones is faster than NumPy's reduction of a short last axis.
def _row_sums(rows: Array) -> Array:
    sums: Array = np.dot(rows, _ones(rows.shape[1], rows.dtype))
    return sums


@cache
def _ones(count: int, dtype: np.dtype[Any]) -> Array:
    return np.ones(count, dtype)

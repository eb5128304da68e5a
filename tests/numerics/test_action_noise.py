"""Sampled actions against their probabilities, and the noise that they are drawn from."""

import math

import numpy as np
import pytest
import torch
from action_families import (
    ALL,
    CONTINUOUS,
    DISCRETE,
    FAMILIES,
    SIZES,
    UNEQUAL,
    dimensions,
    joint_log_probabilities,
    mask_of,
    random_parameters,
    seeded,
)
from scipy.stats import chisquare, gumbel_r, kstest, norm

from rlkl.numerics.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    TanhGaussian,
)


@pytest.mark.parametrize("masked", [False, True])
@DISCRETE
def test_sample_frequencies_match_probabilities(family: str, masked: bool) -> None:
    count = 40_000
    row = random_parameters(rows=1)
    distribution = FAMILIES[family](row)
    if masked:
        distribution = distribution.masked(mask_of(family))
    probabilities = joint_log_probabilities(distribution, family).squeeze(0).exp().numpy()
    actions = distribution.at(distribution.parameters.expand(count, -1)).sample(seeded())
    place = np.ravel_multi_index([d.numpy() for d in dimensions(actions)], SIZES[family])
    frequencies = np.bincount(place, minlength=len(probabilities)) / count
    # A masked action has the standard error 0, so it may not be sampled.
    error = np.sqrt(probabilities * (1 - probabilities) / count)
    assert (np.abs(frequencies - probabilities) <= 4.5 * error).all()


def test_each_row_samples_its_own_probabilities() -> None:
    probabilities = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.0, 0.5]], dtype=torch.float64)
    rows = Categorical(probabilities.log().repeat_interleave(50_000, 0))
    actions = rows.sample(seeded()).reshape(2, 50_000)
    first, second = (np.bincount(row, minlength=3) for row in actions)
    assert chisquare(first, [5_000, 10_000, 35_000]).pvalue > 0.01
    assert second[1] == 0
    assert chisquare(second[[0, 2]]).pvalue > 0.01


@ALL
@pytest.mark.parametrize("masked", [False, True])
def test_sample_is_draw_of_generated_noise(family: str, masked: bool) -> None:
    distribution = FAMILIES[family](random_parameters(rows=50))
    if masked and family in SIZES:
        distribution = distribution.masked(mask_of(family))
    noise = distribution.noise((50,), seeded(7))
    assert noise.dtype == torch.float64
    assert torch.equal(distribution.draw(noise), distribution.sample(seeded(7)))


@ALL
def test_noise_does_not_depend_on_parameters(family: str) -> None:
    first, other = (FAMILIES[family](random_parameters(seed)) for seed in (0, 1))
    noise = first.noise((7, 3), seeded())
    assert torch.equal(noise, other.noise((7, 3), seeded()))
    assert noise.shape[:2] == (7, 3)
    assert noise.isfinite().all()
    three = first.at(first.parameters[:3])
    for row in noise:
        assert three.draw(row).shape == three.sample(seeded()).shape
    # The action of a state depends only on its own noise.
    changed = noise[0].clone()
    changed[1:] = noise[1, 1:]
    assert torch.equal(three.draw(changed)[0], three.draw(noise[0])[0])
    assert torch.equal(three.draw(changed)[1:], three.draw(noise[1])[1:])


def test_noise_of_many_steps_is_independent() -> None:
    probabilities = torch.tensor([0.1, 0.2, 0.7, 0.0], dtype=torch.float64)
    rows = Categorical(probabilities.log().expand(5_000, 4))
    noise = rows.noise((4, 5_000), seeded())
    counts = np.stack([np.bincount(rows.draw(step), minlength=4) for step in noise])
    assert (counts[:, 3] == 0).all()
    for count in counts:
        assert chisquare(count[:3], [500, 1_000, 3_500]).pvalue > 0.01
    # Steps are independent.
    pairs = np.bincount(3 * rows.draw(noise[0]) + rows.draw(noise[1]), minlength=9)
    expected = 5_000 * np.outer([0.1, 0.2, 0.7], [0.1, 0.2, 0.7])
    assert chisquare(pairs, expected.ravel()).pvalue > 0.01


def test_noise_is_gumbel_or_normal() -> None:
    gumbel = Categorical(torch.zeros(1, 10, dtype=torch.float64)).noise((5_000,), seeded())
    assert kstest(gumbel.flatten(), gumbel_r.cdf).pvalue > 0.01
    normal = DiagonalGaussian(torch.zeros(1, 20, dtype=torch.float64)).noise((5_000,), seeded())
    assert kstest(normal.flatten(), norm.cdf).pvalue > 0.01


def test_zero_noise_draws_the_mode() -> None:
    for family in ("categorical", "multi", "unequal", "bernoulli", "gaussian"):
        distribution = FAMILIES[family](random_parameters())
        zero = torch.zeros_like(distribution.noise((5,), seeded()))
        assert torch.equal(distribution.draw(zero), distribution.mode())


@CONTINUOUS
def test_gaussian_samples_are_normal_and_independent(
    kind: type[DiagonalGaussian],
) -> None:
    parameters = torch.tensor([1.0, -2.0, 0.0, math.log(3.0)], dtype=torch.float64)
    actions = kind(parameters.expand(50_000, 4)).sample(seeded())
    assert kstest(actions[:, 0], norm(1, 1).cdf).pvalue > 0.01
    assert kstest(actions[:, 1], norm(-2, 3).cdf).pvalue > 0.01
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.015
    assert abs(np.corrcoef(actions[1:, 0], actions[:-1, 0])[0, 1]) < 0.015


@ALL
def test_samples_depend_only_on_the_generator(family: str) -> None:
    distribution = FAMILIES[family](random_parameters(rows=1000))
    state = torch.get_rng_state()
    first, second, third = (distribution.sample(seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), state)


def test_modes_have_known_values() -> None:
    assert Categorical(torch.tensor([[0.0, 3.0, -1.0], [5.0, 1.0, 2.0]])).mode().tolist() == [1, 0]
    logits = torch.tensor([[-7.0, -3.0, -1.0, -2.0, -4.0, -5.0]])
    assert UNEQUAL(logits).mode().tolist() == [[0, 1, 0]]
    assert Bernoulli(torch.tensor([[-1.0, 2.0, math.inf]])).mode().tolist() == [[0, 1, 1]]
    for kind in (DiagonalGaussian, TanhGaussian):
        assert kind(torch.tensor([[0.5, -2.0, 9.0, 9.0]])).mode().tolist() == [[0.5, -2.0]]

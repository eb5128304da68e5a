"""The beta distribution: against SciPy, torch.distributions, literal numbers and quadrature."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from made_batches import batch_for, policy_of
from torch import Generator, Tensor
from torch.func import functional_call

from rlkl.algos.natural_gradient import Surrogate
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchEngine
from rlkl.numerics import divergences
from rlkl.numerics.beta import Beta


def outputs(*shapes: float) -> Tensor:
    """Return network outputs that give these α or β, from softplus⁻¹(y) = y + log(1 - e⁻ʸ)."""
    y = torch.tensor(shapes, dtype=torch.float64) - 1
    return y + torch.log(-torch.expm1(-y))


def beta_of(alpha: list[float], beta: list[float]) -> Beta:
    return Beta(torch.cat((outputs(*alpha), outputs(*beta)))[None])


SHAPES = [([2.0], [3.0]), ([1.01], [40.0]), ([900.0], [350.0]), ([1.5, 7.0], [6.0, 2.5])]


def in_scipy(alpha: list[float], beta: list[float]) -> list[scipy.stats.distributions.rv_frozen]:
    return [scipy.stats.beta(a, b, loc=-1, scale=2) for a, b in zip(alpha, beta, strict=True)]


@pytest.mark.parametrize(("alpha", "beta"), SHAPES)
def test_log_prob_entropy_and_mean_equal_scipys(alpha: list[float], beta: list[float]) -> None:
    p, parts = beta_of(alpha, beta), in_scipy(alpha, beta)
    u = torch.linspace(-0.9, 0.8, 5, dtype=torch.float64)[:, None].repeat(1, len(alpha))
    found = p.at(p.parameters.repeat(5, 1)).log_prob(u)
    expected = sum(part.logpdf(u[:, d].numpy()) for d, part in enumerate(parts))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    entropy = sum(float(part.entropy()) for part in parts)
    assert float(p.entropy()) == pytest.approx(entropy, rel=1e-9)
    np.testing.assert_allclose(p.mode()[0], [part.mean() for part in parts], rtol=1e-9, atol=1e-12)


def test_literal_numbers_of_a_parabola() -> None:
    # Beta(2, 2) has the density 6 x (1 - x), so u has ¾ (1 - u²).
    p, q = beta_of([2.0], [2.0]), beta_of([2.0], [3.0])
    assert float(p.log_prob(torch.tensor([[0.0]]))) == pytest.approx(math.log(0.75))
    assert float(p.log_prob(torch.tensor([[0.5]]))) == pytest.approx(math.log(0.75 * 0.75))
    # E[log x] = ψ(2) - ψ(4) = -5/6, and Beta(2, 3) has the density 12 x (1 - x)².
    assert float(p.entropy()) == pytest.approx(5 / 3 - math.log(6) + math.log(2))
    assert float(p.kl(q)) == pytest.approx(math.log(6 / 12) + 5 / 6)
    assert float(q.kl(p)) == pytest.approx(math.log(12 / 6) - 7 / 12)  # ψ(3) - ψ(5)


@pytest.mark.parametrize(("alpha", "beta"), SHAPES)
def test_kl_equals_torchs_in_both_directions(alpha: list[float], beta: list[float]) -> None:
    p = beta_of(alpha, beta)
    q = beta_of([1.2 * a for a in alpha], [1.1 * b for b in beta])
    p_torch, q_torch = (torch.distributions.Beta(d.alpha, d.beta) for d in (p, q))
    for first, second, a, b in ((p, q, p_torch, q_torch), (q, p, q_torch, p_torch)):
        expected = torch.distributions.kl_divergence(a, b).sum(-1)
        torch.testing.assert_close(first.kl(second), expected, rtol=1e-9, atol=1e-12)
        assert float(first.kl(second)) > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_of_equal_parameters_is_zero(dtype: torch.dtype) -> None:
    parameters = 50 * torch.randn(1000, 6, dtype=dtype)
    assert not Beta(parameters).kl(Beta(parameters.clone())).any()


def test_dimensions_are_summed() -> None:
    both = beta_of([2.0, 5.0], [3.0, 1.5]), beta_of([2.5, 4.0], [3.0, 2.0])
    first = beta_of([2.0], [3.0]), beta_of([2.5], [3.0])
    second = beta_of([5.0], [1.5]), beta_of([4.0], [2.0])
    kls = [float(p.kl(q)) for p, q in (both, first, second)]
    assert kls[0] == pytest.approx(kls[1] + kls[2])
    entropies = [float(pair[0].entropy()) for pair in (both, first, second)]
    assert entropies[0] == pytest.approx(entropies[1] + entropies[2])


def test_near_equal_kl_is_the_fisher_form() -> None:
    # ½ Δᵀ F Δ with F = ψ'(α) - ψ'(α+β) for α; ψ'(2) - ψ'(5) = 1/4 + 1/9 + 1/16.
    kl = float(beta_of([2.0], [3.0]).kl(beta_of([2.0 + 1e-4], [3.0])))
    assert kl == pytest.approx(0.5e-8 * (1 / 4 + 1 / 9 + 1 / 16), rel=1e-3)


def test_mode_is_accurate_where_it_is_flat() -> None:
    flat = Beta(torch.full((1, 2), -200.0))  # α = β = 1
    assert float(flat.mode()) == 0
    assert float(flat.entropy()) == pytest.approx(math.log(2))
    assert float(flat.log_prob(torch.tensor([[0.3]]))) == pytest.approx(-math.log(2))


@pytest.mark.parametrize(("alpha", "beta"), [(1.001, 1.001), (1.5, 4.0), (60.0, 3.0)])
def test_samples_have_the_distribution(alpha: float, beta: float) -> None:
    p = beta_of([alpha], [beta])
    noise = p.noise((20_000,), Generator().manual_seed(1))
    u = p.at(p.parameters.expand(20_000, 2)).draw(noise)[:, 0].numpy()
    (part,) = in_scipy([alpha], [beta])
    assert scipy.stats.kstest(u, part.cdf).pvalue > 0.01


def test_samples_are_inside_for_any_noise() -> None:
    p = Beta(torch.tensor([[-100.0, 50.0, 50.0, -100.0]]))
    noise = torch.zeros(1, 2, 2, 6, 2)
    for z in (-50.0, 0.0, 50.0):  # the first is rejected by all candidates
        noise[:, :, 0, :, 0] = z
        u = p.draw(noise)
        assert u.abs().max() < 1
        assert u.dtype == torch.float32
        assert p.log_prob(u).isfinite().all()


def test_float32_parameters_lose_no_digits() -> None:
    exact = torch.tensor([[900.0, 350.0]], dtype=torch.float64)
    p, other = Beta(exact.float()), Beta((1.001 * exact).float())
    p_exact, other_exact = Beta(exact), Beta((1.001 * exact).float().double())
    u = torch.tensor([[0.4375]])
    for found, expected in (
        (p.log_prob(u), p_exact.log_prob(u)),
        (p.kl(other), p_exact.kl(other_exact)),
        (p.entropy(), p_exact.entropy()),
        (p.mode(), p_exact.mode()),
    ):
        torch.testing.assert_close(found, expected.float(), rtol=1e-6, atol=0)


def test_first_accepted_candidate_is_taken() -> None:
    p = beta_of([2.0], [2.0])
    noise = torch.zeros(1, 1, 2, 6, 2, dtype=torch.float64)
    noise[..., 1] = 1.0
    noise[0, 0, 0, 0, 0] = -30.0  # (1 - 30 / √15)³ < 0 is rejected
    noise[0, 0, 0, 2:, 0] = 1.0
    assert float(p.draw(noise)) == pytest.approx(0)


def test_other_divergences_work_or_say_why() -> None:
    p, q = beta_of([2.0], [3.0]), beta_of([2.5], [3.0])
    assert float(divergences.jeffreys(p, q)) == pytest.approx(float(p.kl(q) + q.kl(p)))
    assert float(divergences.cross_entropy(p, q)) == pytest.approx(float(p.entropy() + p.kl(q)))
    for name in ("jensen_shannon", "total_variation"):
        with pytest.raises(divergences.NoClosedFormError, match=r"of a Beta.*estimate"):
            getattr(divergences, name)(p, q)
    with pytest.raises(ValueError, match="cannot be masked"):
        p.masked(torch.ones(1, 2, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_fisher_products_match_kl_hessian(engine: str) -> None:
    policy = policy_of("beta", dtype=torch.float64, actor_hidden_sizes=[3])
    batch = batch_for(policy, "beta", 32)
    names = [name for name, _ in policy.actor.named_parameters()]
    old = torch.distributions.Beta(*(1 + (1 + batch.old_parameters.exp()).log()).chunk(2, -1))

    def mean_kl(vector: Tensor) -> Tensor:
        parts = dict(zip(names, policy.actor_parameters.parts(vector), strict=True))
        new = functional_call(policy.actor, parts, (batch.inputs, None))
        shapes = (1 + (1 + new.exp()).log()).chunk(2, -1)
        kl = torch.distributions.kl_divergence(old, torch.distributions.Beta(*shapes))
        return kl.sum(1).mean()

    vector = policy.actor_parameters.vector.detach()
    dense = torch.autograd.functional.hessian(mean_kl, vector)
    direction = torch.linspace(-1, 1, len(vector), dtype=torch.float64)
    used = make_engine(policy) if engine == "numpy" else TorchEngine(policy)
    rows = used.rows(batch, Surrogate())
    product = torch.as_tensor(used.fisher_product(rows, 0.1)(used.vector(direction)))
    assert dense.abs().max() > 1e-2
    torch.testing.assert_close(product, dense @ direction + 0.1 * direction, rtol=1e-7, atol=1e-9)

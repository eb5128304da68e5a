"""The quadratic model of the KL of a policy step, and TRPO's lower bound on the return."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlkl.numerics.divergences import from_probabilities, kl

__all__ = [
    "ImprovementBound", "PolicyValues", "TabularMDP", "improvement_bound", "quadratic_kl",
    "solve",
]  # fmt: skip


def quadratic_kl(fisher: Tensor | Callable[[Tensor], Tensor], step: Tensor) -> Tensor:
    """Quadratic model ½ dᵀF d of the KL of a step, in nats (Kakade 2001; TRPO, section 4).

    KL / (½ dᵀF d) tends to 1 linearly in the length of d, for either direction of KL.

    Args:
        fisher: F, `[n, n]`, or v ↦ F v from `trust_region.fisher_vector_product` without damping.
        step: d = θ - θ_old, `[n]`.
    """
    product = fisher @ step if isinstance(fisher, Tensor) else fisher(step)
    return 0.5 * (step @ product)


@dataclass(frozen=True)
class TabularMDP:
    """A Markov decision process that is small enough to be solved exactly, in float64.

    A terminal state is one that no action leaves, with rewards of 0.

    Attributes:
        transitions: P(s' | s, a), `[S, A, S]`.
        rewards: expected reward of an action, `[S, A]`.
        start: probabilities of the first state, `[S]`.
        gamma: discount factor, at least 0 and below 1.

    Raises:
        ValueError: if the shapes do not match, or probabilities are invalid.
    """

    transitions: Tensor
    rewards: Tensor
    start: Tensor
    gamma: float

    def __post_init__(self) -> None:
        if self.rewards.ndim != 2:
            raise ValueError(f"rewards of shape {list(self.rewards.shape)}: expected [S, A]")
        states, actions = self.rewards.shape
        for name, shape in (("transitions", [states, actions, states]), ("start", [states])):
            given = list(getattr(self, name).shape)
            if given != shape:
                raise ValueError(f"{name} of shape {given}: expected {shape}, to match the rewards")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma={self.gamma}: expected at least 0 and below 1")
        from_probabilities(self.transitions.flatten(0, 1))
        from_probabilities(self.start)


@dataclass(frozen=True)
class PolicyValues:
    """Exact values of a policy.

    Attributes:
        values: V(s), `[S]`.
        advantages: A(s, a) = Q(s, a) - V(s), `[S, A]`.
        visits: discounted visits Σ_t γᵗ P(s_t = s), `[S]`; they sum to 1/(1-γ).
        expected_return: J = Σ_s P(s_0 = s) · V(s).
    """

    values: Tensor
    advantages: Tensor
    visits: Tensor
    expected_return: float


def solve(mdp: TabularMDP, policy: Tensor) -> PolicyValues:
    """Solve V = r_π + γ P_π V and d = P(s_0) + γ P_πᵀ d for a policy π(a|s), `[S, A]`.

    Raises:
        ValueError: if the policy has another shape or invalid probabilities.
    """
    policy = _check_policy(mdp, policy)
    transitions, rewards, start = (x.double() for x in (mdp.transitions, mdp.rewards, mdp.start))
    next_state = torch.einsum("sa,sat->st", policy, transitions)
    matrix = torch.eye(len(start), dtype=torch.float64) - mdp.gamma * next_state
    values = torch.linalg.solve(matrix, (policy * rewards).sum(-1))
    advantages = rewards + mdp.gamma * transitions @ values - values.unsqueeze(-1)
    visits = torch.linalg.solve(matrix.T, start)
    return PolicyValues(values, advantages, visits, float(start @ values))


@dataclass(frozen=True)
class ImprovementBound:
    """TRPO's lower bound for a step from an old to a new policy, and the true returns.

    Attributes:
        old_return: J(old).
        new_return: J(new), never below `lower_bound`.
        surrogate: L_old(new), the return predicted from the old policy's visits.
        epsilon: ε = max |A_old(s, a)|.
        max_kl: max_s KL(old ‖ new) in nats.
        lower_bound: L_old(new) - 4εγ/(1-γ)² · max_s KL(old ‖ new).
    """

    old_return: float
    new_return: float
    surrogate: float
    epsilon: float
    max_kl: float
    lower_bound: float


def improvement_bound(mdp: TabularMDP, old: Tensor, new: Tensor) -> ImprovementBound:
    """TRPO's lower bound on the return of a new policy (Schulman 2015, eq. 9 and theorem 1).

    J(new) ≥ L_old(new) - 4εγ/(1-γ)² · max_s KL(old ‖ new) with
    L_old(new) = J(old) + Σ_s d_old(s) Σ_a new(a|s) · A_old(s, a), for policies π(a|s), `[S, A]`.

    Raises:
        ValueError: if a policy has another shape or invalid probabilities.
    """
    old, new = _check_policy(mdp, old), _check_policy(mdp, new)
    before, after = solve(mdp, old), solve(mdp, new)
    gains = (new * before.advantages).sum(-1)
    surrogate = before.expected_return + float(before.visits @ gains)
    epsilon = float(before.advantages.abs().max())
    max_kl = float(kl(from_probabilities(old), from_probabilities(new)).max())
    weight = 4 * epsilon * mdp.gamma / (1 - mdp.gamma) ** 2
    # If ε or γ is 0, L bounds the return even with an infinite KL.
    lower_bound = surrogate - weight * max_kl if weight else surrogate
    returns = before.expected_return, after.expected_return
    return ImprovementBound(*returns, surrogate, epsilon, max_kl, lower_bound)


def _check_policy(mdp: TabularMDP, policy: Tensor) -> Tensor:
    if policy.shape != mdp.rewards.shape:
        raise ValueError(
            f"a policy of shape {list(policy.shape)}: expected {list(mdp.rewards.shape)}, one row "
            "per state"
        )
    from_probabilities(policy)
    return policy.double()

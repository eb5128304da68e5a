"""Memory compared with a loop over torch's cells, and how rows are split into sequences."""

import itertools
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from gymnasium.vector import AutoresetMode
from learning_loop import small_policy, vector_encoder, vectors_of
from torch import Generator, Tensor, nn
from worlds import MODES, PLANS, ROWS, wander

from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchEngine
from rlkl.models.policy import Inputs, Policy, PolicyConfig
from rlkl.models.recurrent import Memory, Sequences
from rlkl.numerics.advantages import generalized_advantages
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.collector import Collector
from rlkl.rollouts.make import make_batch
from rlkl.rollouts.rollout import Rollout

KINDS = pytest.mark.parametrize("kind", ["gru", "lstm"])
BOTH_MODES = pytest.mark.parametrize("mode", MODES, ids=["same_step", "next_step"])


def recurrent(kind: str, size: int = 4, **settings: Any) -> Policy:
    settings = {"memory": kind, "memory_size": 6, "sequence_length": 3} | settings
    return small_policy(size, Discrete(3), **settings)


def collector_of(kind: str, mode: AutoresetMode, **settings: Any) -> Collector:
    envs = wander(Discrete(3), mode)
    generator = Generator().manual_seed(0)
    return Collector(
        envs, make_engine(recurrent(kind, **settings)), 10, generator, [0] * len(PLANS)
    )


def second_rollout(
    kind: str, mode: AutoresetMode, **settings: Any
) -> tuple[Policy, Rollout, Batch]:
    """Return a rollout that starts within episodes, collected after a change of the weights."""
    collector = collector_of(kind, mode, **settings)
    policy = collector.policy
    collector.collect()
    with torch.no_grad():
        for parameters in (policy.actor_parameters, policy.critic_parameters):
            noise = torch.randn(len(parameters.vector), generator=Generator().manual_seed(7))
            parameters.vector.add_(0.2 * noise)
    rollout = collector.collect()
    return policy, rollout, make_batch(rollout, make_engine(policy), 0.9, 0.8)


# The reference: torch's cells, one step of one sub-environment at a time.


def cell_of(memory: Memory) -> nn.Module:
    layer = memory.layer
    cell = (nn.GRUCell if isinstance(layer, nn.GRU) else nn.LSTMCell)(
        layer.input_size, layer.hidden_size, dtype=layer.weight_ih_l0.dtype
    )
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    return cell


def stepped(cell: nn.Module, features: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output and the flat state after one step, `[H]` and `[M]`."""
    if isinstance(cell, nn.GRUCell):
        hidden = cell(features[None], state[None])[0]
        return hidden, hidden
    parts = cell(features[None], tuple(part[None] for part in state.chunk(2)))
    return parts[0][0], torch.cat([part[0] for part in parts])


@torch.no_grad()
def reference_outputs(policy: Policy, rollout: Rollout) -> tuple[Tensor, Tensor, Tensor]:
    """Return the actor's and the critic's output at each row, and the states after it."""
    steps, num_envs = rollout.rewards.shape
    half = policy.state_size // 2
    networks = (policy.actor, policy.critic)
    cells = [cell_of(network.memory) for network in networks if network.memory is not None]
    vectors = torch.as_tensor(rollout.observations["vector"])
    found = [torch.zeros(steps + 1, num_envs, 3), torch.zeros(steps + 1, num_envs, 1)]
    after = torch.zeros(steps + 1, num_envs, policy.state_size)
    for env in range(num_envs):
        state = rollout.states[0, env]
        for t in range(steps + 1):
            if rollout.begins[t, env]:
                state = torch.zeros_like(state)
            parts = []
            for network, cell, own, outputs in zip(
                networks, cells, state.split(half), found, strict=True
            ):
                hidden, part = stepped(cell, vectors[t, env], own)
                outputs[t, env] = network.head(hidden)
                parts.append(part)
            state = after[t, env] = torch.cat(parts)
    return found[0], found[1].squeeze(-1), after


@KINDS
@BOTH_MODES
def test_batch_matches_loop_over_torch_cells(kind: str, mode: AutoresetMode) -> None:
    policy, rollout, batch = second_rollout(kind, mode, sequence_length=100)
    logits, values, after = reference_outputs(policy, rollout)
    rows = torch.as_tensor(rollout.is_transition.flatten())
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(batch.old_parameters, logits[:-1].flatten(0, 1)[rows], **close)
    torch.testing.assert_close(batch.old_values, values[:-1].flatten()[rows], **close)
    begins = torch.as_tensor(rollout.begins[1:, :, None])
    torch.testing.assert_close(rollout.states[1:], after[:-1].masked_fill(begins, 0), **close)


@KINDS
@BOTH_MODES
def test_truncated_episode_bootstraps_with_memory_state(kind: str, mode: AutoresetMode) -> None:
    policy, rollout, batch = second_rollout(kind, mode)
    _, values, after = reference_outputs(policy, rollout)
    following = values[1:].clone()
    half = policy.state_size // 2
    assert policy.critic.memory is not None
    cell, finals = cell_of(policy.critic.memory), rollout.final_observations["vector"]
    cut = rollout.truncated & ~rollout.terminated
    assert cut.any()
    for row, vector in zip(rollout.final_rows, torch.as_tensor(finals), strict=True):
        t, env = divmod(int(row), rollout.rewards.shape[1])
        assert cut[t, env]
        hidden, _ = stepped(cell, vector, after[t, env, half:])
        following[t, env] = policy.critic.head(hidden).detach()
    assert len(rollout.final_rows) == (cut.sum() if mode == AutoresetMode.SAME_STEP else 0)
    advantages = generalized_advantages(
        rollout.rewards,
        values[:-1].double().numpy(),
        following.double().numpy(),
        rollout.terminated,
        rollout.truncated,
        0.9,
        0.8,
    )
    expected = torch.as_tensor(advantages.reshape(-1)[rollout.is_transition.flatten()]).float()
    torch.testing.assert_close(batch.advantages, expected, rtol=1e-5, atol=1e-5)


@KINDS
def test_autoreset_modes_give_same_batches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Policy.noise  # replaced by 0: autoreset steps would use random numbers
    monkeypatch.setattr(Policy, "noise", lambda *given: torch.zeros_like(noise(*given)))
    found: list[list[tuple[Batch, Tensor]]] = []
    for mode in MODES:
        collector = collector_of(kind, mode)
        found.append([])
        for collector.rollout_steps in ROWS[mode]:
            batch = make_batch(collector.collect(), make_engine(collector.policy), 0.9, 0.8)
            order = np.lexsort(vectors_of(batch).T.numpy())
            found[-1].append((batch, torch.as_tensor(order)))
    for (a, order_a), (b, order_b) in zip(*found, strict=True):
        assert len(a) == len(b)
        for field in fields(Batch):
            if field.name in ("inputs", "reference_parameters"):
                continue
            one, other = getattr(a, field.name)[order_a], getattr(b, field.name)[order_b]
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(vectors_of(a)[order_a], vectors_of(b)[order_b])
        assert contents(a) == contents(b)


def contents(batch: Batch) -> set[tuple[tuple[float, ...], ...]]:
    """Return the observations and the initial state of each sequence."""
    sequences = batch.inputs.sequences
    assert sequences is not None
    found = set()
    for s, length in enumerate(sequences.lengths.tolist()):
        rows = vectors_of(batch)[sequences.cells[:length, s]]
        state = (sequences.states[s] * 1e4).round() / 1e4
        found.add((*map(tuple, rows.tolist()), tuple(state.tolist())))
    assert len(found) == len(sequences)
    return found


# How rows are split into sequences.


@BOTH_MODES
@pytest.mark.parametrize("sequence_length", [1, 3, 100])
def test_sequences_end_at_resets_and_maximum_length(
    mode: AutoresetMode, sequence_length: int
) -> None:
    _, rollout, batch = second_rollout("gru", mode, sequence_length=sequence_length)
    steps, num_envs = rollout.rewards.shape
    expected: list[list[int]] = []
    for env in range(num_envs):
        # Independent of the tested code: words of a text, split at resets.
        text = ""
        for t in range(steps):
            text += "|" if rollout.begins[t, env] else ""
            text += f"{t * num_envs + env} " if rollout.is_transition[t, env] else "|"
        for episode in text.split("|"):
            rows = [int(row) for row in episode.split()]
            firsts = range(0, len(rows), sequence_length)
            expected += [rows[first : first + sequence_length] for first in firsts]
    sequences = batch.inputs.sequences
    assert sequences is not None
    places = np.flatnonzero(rollout.is_transition)
    states = rollout.states.flatten(0, 1)
    found = []
    for s, length in enumerate(sequences.lengths.tolist()):
        found.append(places[sequences.cells[:length, s].numpy()].tolist())
        assert torch.equal(sequences.states[s], states[found[-1][0]])
    assert sorted(found) == sorted(expected)
    assert sorted(itertools.chain(*found)) == places.tolist()
    assert len(sequences.cells) == max(map(len, expected)) <= sequence_length
    starts = [sequence[0] for sequence in found]
    assert (sequences.states.abs().sum(-1) > 0).tolist() == [
        not rollout.begins.reshape(-1)[start] for start in starts
    ]


def test_take_selects_sequences() -> None:
    cells = torch.tensor([[4, 0, 3], [1, 0, 2], [5, 0, 0]])
    states = torch.tensor([[0.0], [1.0], [2.0]])
    sequences = Sequences(cells, torch.tensor([3, 1, 2]), states)
    assert sequences.is_row.tolist() == [[True] * 3, [True, False, True], [True, False, False]]
    rows, taken = sequences.take(torch.tensor([2, 1]))
    assert rows.tolist() == [3, 0, 2]
    assert taken.lengths.tolist() == [2, 1]
    assert taken.states.tolist() == [[2.0], [1.0]]
    assert taken.cells.shape == (2, 2)
    assert rows[taken.cells[:2, 0]].tolist() == [3, 2]
    assert rows[taken.cells[:1, 1]].tolist() == [0]
    assert taken.cells[1, 1] in range(3)


@KINDS
def test_minibatches_are_whole_sequences_covering_every_row(kind: str) -> None:
    policy, _, batch = second_rollout(kind, MODES[0])
    numbered = replace(batch, returns=torch.arange(float(len(batch))))
    generator = Generator().manual_seed(0)
    for number in (1, 2, 4, 1000):
        parts = list(numbered.minibatches(number, generator))
        assert len(parts) == min(number, len(batch.inputs.sequences or ()))
        rows = torch.cat([part.returns for part in parts])
        assert rows.sort().values.tolist() == numbered.returns.tolist()
        for part in parts:
            chosen = part.returns.long()
            assert torch.equal(vectors_of(part), vectors_of(batch)[chosen])
            assert torch.equal(part.actions, batch.actions[chosen])
            assert contents(part) <= contents(batch)
            new = policy.distribution(part.inputs).parameters
            torch.testing.assert_close(new, batch.old_parameters[chosen], rtol=1e-5, atol=1e-6)
            values = policy.values(part.inputs)
            torch.testing.assert_close(values, batch.old_values[chosen], rtol=1e-5, atol=1e-6)
    sample = numbered.sample(0.5, generator)
    assert len(sample.inputs.sequences or ()) == round(0.5 * len(batch.inputs.sequences or ()))
    assert contents(sample) <= contents(batch)
    assert len(numbered.sample(1e-9, generator).inputs.sequences or ()) == 1


# What gradients and values depend on.


def two_sequences(states: Tensor) -> Sequences:
    return Sequences(
        torch.tensor([[0, 3], [1, 4], [2, 0]]), torch.tensor([3, 2]), states.requires_grad_()
    )


@KINDS
def test_gradients_stop_at_sequence_start(kind: str) -> None:
    memory = Memory(kind, 2, 4)
    features = torch.randn(5, 2, generator=Generator().manual_seed(0), requires_grad=True)
    states = torch.zeros(2, memory.state_size)
    outputs = memory.over(features, two_sequences(states), states)
    for row, reached in ((2, [0, 1, 2]), (1, [0, 1]), (4, [3, 4]), (3, [3])):
        (gradient,) = torch.autograd.grad(outputs[row].sum(), features, retain_graph=True)
        assert gradient.abs().sum(-1).nonzero().squeeze(-1).tolist() == reached


@KINDS
@BOTH_MODES
def test_collected_states_have_no_graph(kind: str, mode: AutoresetMode) -> None:
    policy, rollout, batch = second_rollout(kind, mode)
    assert batch.inputs.sequences is not None
    tensors = (rollout.states, rollout.final_states, batch.inputs.sequences.states)
    assert not any(tensor.requires_grad for tensor in tensors)
    assert policy.distribution(batch.inputs).parameters.requires_grad


@KINDS
def test_padding_does_not_affect_values_or_gradients(kind: str) -> None:
    policy, _, batch = second_rollout(kind, MODES[0])
    sequences = batch.inputs.sequences
    assert sequences is not None
    assert not sequences.is_row.all()
    results = []
    for filler in (0, len(batch) - 1, None):
        cells = sequences.cells.clone()
        if filler is None:  # two more steps of padding
            cells = torch.cat((cells, torch.full_like(cells[:2], 5)))
        else:
            cells[~sequences.is_row] = filler
        inputs = Inputs(batch.inputs.observations, replace(sequences, cells=cells))
        parameters = policy.distribution(inputs).parameters
        loss = (parameters * torch.arange(3.0)).square().sum() + policy.values(inputs).sum()
        tensors = policy.actor_parameters.tensors + policy.critic_parameters.tensors
        gradients = torch.autograd.grad(loss, tensors)
        results.append(torch.cat([parameters.flatten(), *(g.flatten() for g in gradients)]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(results[2], results[0], rtol=1e-6, atol=1e-6)


@KINDS
def test_padded_sequence_gradients_match_loop(kind: str) -> None:
    generator = Generator().manual_seed(3)
    memory = Memory(kind, 2, 4).double()
    features = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    states = torch.randn(2, memory.state_size, generator=generator, dtype=torch.float64)
    weights = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    outputs = memory.over(features, two_sequences(states), states)
    ours = torch.autograd.grad((outputs * weights).sum(), list(memory.parameters()))
    cell, loss = cell_of(memory), torch.zeros((), dtype=torch.float64)
    for rows, first in (((0, 1, 2), states[0]), ((3, 4), states[1])):
        state = first
        for row in rows:
            output, state = stepped(cell, features[row], state)
            torch.testing.assert_close(outputs[row], output)
            loss = loss + (output * weights[row]).sum()
    for mine, theirs in zip(ours, torch.autograd.grad(loss, list(cell.parameters())), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_states_are_reset_at_episode_starts() -> None:
    policy = recurrent("gru")
    states = torch.ones(3, policy.state_size)
    kept = policy.forget(states, np.array([False, True, False]))
    assert kept.abs().sum(-1).gt(0).tolist() == [True, False, True]
    assert bool((states == 1).all()), "the input must not change"
    assert not policy.initial_state(3).any()


@pytest.mark.parametrize(("kind", "size"), [("none", 0), ("gru", 12), ("lstm", 24)])
def test_state_holds_actor_and_critic_memory(kind: str, size: int) -> None:
    policy = recurrent(kind)
    assert policy.state_size == size
    observations = {"vector": torch.zeros(5, 4)}
    _, states = policy.step(observations, policy.initial_state(5))
    assert states.shape == (5, size)


# The Fisher matrix of all families, in float64.


def tiny(kind: str) -> tuple[Policy, Inputs]:
    generator = Generator().manual_seed(1)
    space, settings = {
        "gru": (Discrete(3), {"memory": "gru"}),
        "lstm": (Box(-1, 1, (1,)), {"memory": "lstm"}),
        "masked": (Discrete(4), {}),
        "multi": (MultiDiscrete([2, 3]), {}),
        "masked_multi": (MultiDiscrete([2, 3]), {}),
        "bits": (MultiBinary(3), {}),
        "of_state": (Box(-1, 1, (2,)), {"state_dependent_std": True}),
        "tanh": (Box(-1, 1, (2,)), {"box_distribution": "tanh_gaussian"}),
    }[kind]
    config = PolicyConfig([3], [3], memory_size=2, actor_gain=0.7, log_std=-0.3, **settings)
    policy = Policy(config, vector_encoder(2), space, generator, dtype=torch.float64)
    observations = {"vector": torch.randn(6, 2, generator=generator, dtype=torch.float64)}
    if kind.startswith("masked"):
        mask = torch.ones(6, policy.decoder.parameter_size, dtype=torch.bool)
        mask[::2, 1] = mask[1::3, -1] = False
        observations["action_mask"] = mask
    sequences = None
    if policy.state_size:
        states = torch.randn(2, policy.state_size, generator=generator, dtype=torch.float64)
        cells = torch.tensor([[0, 4], [1, 5], [2, 0], [3, 0]])
        sequences = Sequences(cells, torch.tensor([4, 2]), 0.5 * states)
    return policy, Inputs(observations, sequences)


def reference_kl(kind: str, old: Tensor, new: Tensor) -> Tensor:
    """Return the mean KL from the definition, Σ p · log(p / q) or the Gaussian formula."""
    if kind in ("lstm", "of_state", "tanh"):
        (m, s), (n, r) = old.chunk(2, -1), new.chunk(2, -1)
        each = r - s + ((2 * s).exp() + (m - n).square()) / (2 * (2 * r).exp()) - 0.5
        return each.sum(-1).mean()
    if kind == "bits":
        p, q = old.sigmoid(), new.sigmoid()
        each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
        return each.sum(-1).mean()
    sizes = [2, 3] if kind.endswith("multi") else [old.shape[-1]]
    total = torch.zeros(len(old), dtype=old.dtype)
    for a, b in zip(old.split(sizes, -1), new.split(sizes, -1), strict=True):
        for row in range(len(old)):
            # Without masked actions.
            p, q = (logits[row][logits[row].isfinite()].exp() for logits in (a, b))
            p, q = p / p.sum(), q / q.sum()
            total[row] += (p * (p / q).log()).sum()
    return total.mean()


@pytest.mark.parametrize(
    "kind", ["gru", "lstm", "masked", "multi", "masked_multi", "bits", "of_state", "tanh"]
)
def test_fisher_products_match_kl_hessian(kind: str) -> None:
    policy, inputs = tiny(kind)
    parameters = policy.actor_parameters
    new = policy.distribution(inputs)
    old = new.parameters.detach().clone()
    rows = SimpleNamespace(inputs=inputs, old_parameters=old)
    product = TorchEngine(policy).fisher_product(rows, damping=0.1)
    start = parameters.vector.detach().clone()
    size = len(start)

    def gradient(vector: Tensor) -> Tensor:
        with torch.no_grad():
            parameters.vector.copy_(vector)
        kl = reference_kl(kind, old, policy.distribution(inputs).parameters)
        found = torch.autograd.grad(kl, parameters.tensors)
        with torch.no_grad():
            parameters.vector.copy_(start)
        return torch.cat([g.flatten() for g in found])

    step = 1e-5 * torch.eye(size, dtype=torch.float64)
    hessian = torch.stack([(gradient(start + e) - gradient(start - e)) / 2e-5 for e in step])
    vectors = torch.randn(3, size, dtype=torch.float64, generator=Generator().manual_seed(2))
    products = torch.stack([product(vector) for vector in vectors])
    expected = vectors @ hessian + 0.1 * vectors
    assert hessian.abs().max() > 1e-2
    torch.testing.assert_close(products, expected, rtol=1e-6, atol=1e-8)

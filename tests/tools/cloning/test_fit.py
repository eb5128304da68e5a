"""The fit: what it reaches, what it keeps, and that it is the same on both engines."""

import math
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from cloning_data import demonstrations, learner_for
from engines_available import ENGINES, needs_numpy_engine

import rlkl
from rlkl.models.policy import Inputs
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.demonstrations import Demonstrations
from rlkl.tools.cloning.fit import (
    Data,
    Row,
    _descend,
    best_row,
    fit,
    fit_statistics,
    measure_policy,
    measure_values,
)
from rlkl.training.learner import Learner
from rlkl.utils.errors import ConfigError

FAST = CloneConfig(
    epochs=60, patience=None, learning_rate=0.05, max_grad_norm=None, fit_critic=False
)
BOTH = replace(FAST, fit_critic=True)
COUNTED = demonstrations([0] * 10 + [1] * 8, [0] * 6 + [1] * 3 + [2] + [0] * 2 + [1] * 2 + [2] * 4)
"""In state 0 the actions 6, 3 and 1 times, in state 1 twice, twice and 4 times."""


def ignore(text: str) -> None:
    pass


def fitted(data: Demonstrations, env: str = "StatesDiscrete-v0", config: CloneConfig = FAST,
           **settings: Any) -> tuple[Learner, list[Row], list[Row]]:  # fmt: skip
    with closing(learner_for(env, **settings)) as learner:
        return learner, *fit(data, data, learner, config, ignore)


def policy_in(learner: Learner, *states: int, **masks: Any) -> Any:
    vectors = torch.eye(2)[list(states)]
    return learner.engine.distribution(Inputs({"vector": vectors, **masks}))


@pytest.mark.parametrize("engine", ENGINES)
def test_fit_reaches_the_empirical_distribution(engine: str) -> None:
    policy = rlkl.PolicyConfig(actor_hidden_sizes=[8], critic_hidden_sizes=[8], engine=engine)
    learner, rows, _ = fitted(COUNTED, policy=policy)
    found = policy_in(learner, 0, 1).log_probabilities.exp()
    expected = torch.tensor([[0.6, 0.3, 0.1], [0.25, 0.25, 0.5]])
    torch.testing.assert_close(found, expected, atol=0.005, rtol=0)
    # The entropies 0.897946 and 1.039721 of the two, 10 and 8 times of 18.
    assert min(row["held_out/loss"] for row in rows) == pytest.approx(0.960957, abs=1e-4)
    assert rows[-1]["held_out/accuracy"] == pytest.approx(10 / 18)


@needs_numpy_engine
def test_engines_agree() -> None:
    networks = {"actor_hidden_sizes": [8], "critic_hidden_sizes": [8]}
    both = [
        fitted(COUNTED, config=BOTH, policy=rlkl.PolicyConfig(engine=engine, **networks))
        for engine in ("numpy", "torch")
    ]
    for ours, theirs in zip(*(policy_rows + value_rows for _, policy_rows, value_rows in both),
                            strict=True):  # fmt: skip
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5, nan_ok=True)


def test_gaussian_fit_reaches_mean_and_deviation() -> None:
    actions = np.array([[0.5, -0.2], [-0.1, -0.6]] * 8, np.float32)
    data = demonstrations([0, 0] * 8, actions)
    learner, _, _ = fitted(data, "StatesBox-v0", replace(FAST, epochs=200))
    found = policy_in(learner, 0)
    assert found.mean[0].tolist() == pytest.approx([0.2, -0.4], abs=0.01)
    assert found.log_std.exp()[0].tolist() == pytest.approx([0.3, 0.2], abs=0.01)


@pytest.mark.parametrize(
    ("env", "actions"),
    [
        ("StatesMultiDiscrete-v0", [[0, 1], [2, 1], [0, 0]]),
        ("StatesMultiBinary-v0", [[0, 1], [1, 1], [0, 0]]),
    ],
)
def test_several_choices_reach_their_frequencies(env: str, actions: Any) -> None:
    learner, rows, _ = fitted(demonstrations([0] * 3, actions), env)
    second = policy_in(learner, 0).log_probabilities[0, 1].exp()
    assert second[:2].tolist() == pytest.approx([1 / 3, 2 / 3], abs=0.01)
    assert rows[-1]["held_out/accuracy"] == pytest.approx(1 / 3)


def test_masked_actions_keep_probability_0() -> None:
    mask = [[True, True, True], [True, True, False]] * 4
    data = demonstrations([0, 1] * 4, [2, 1, 2, 0] * 2, mask=mask)
    learner, rows, _ = fitted(data, "StatesMasked-v0")
    masks = {"action_mask": torch.tensor(mask[:2])}
    found = policy_in(learner, 0, 1, **masks).log_probabilities.exp()
    assert found[1, 2] == 0
    assert found[1, :2].tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    assert rows[-1]["held_out/loss"] < 0.4  # half of it log 2, as without the mask


def test_forbidden_action_is_refused() -> None:
    mask = [[True] * 3, [True, True, False]]
    bad, good = (demonstrations([0, 1], [0, last], mask=mask) for last in (2, 1))
    for parts in ((bad, good), (good, bad)):
        with (
            closing(learner_for("StatesMasked-v0")) as learner,
            pytest.raises(ConfigError, match="one that its mask does not allow"),
        ):
            fit(*parts, learner, FAST, ignore)


@pytest.mark.parametrize(("terminated", "value"), [(True, 1.0), (False, 10.0)])
def test_cut_episodes_continue_with_the_value(terminated: bool, value: float) -> None:
    # A reward of 1 and the same state for ever: V = 1 / (1 - 0.9), unless it ends at once.
    data = demonstrations([0] * 4, [0] * 4, terminated=terminated)
    config = replace(BOTH, epochs=100, learning_rate=0.3)
    learner, _, rows = fitted(data, config=config, gamma=0.9)
    (found,) = learner.engine.values(Inputs({"vector": torch.eye(2)[:1]})).tolist()
    assert found == pytest.approx(value, rel=0.05)
    assert best_row(rows, "held_out/value_loss")[1]["held_out/value_loss"] < 0.01


def test_critic_learns_in_units_of_normalized_values() -> None:
    data = demonstrations([0, 1] * 4, [0] * 8, [2] * 4)
    config = replace(BOTH, epochs=80, learning_rate=0.1)
    critic = rlkl.CriticConfig(normalize_values=True)
    learner, _, _ = fitted(data, config=config, gamma=0.5, critic=critic)
    outputs = learner.engine.values(Inputs({"vector": torch.eye(2)}))
    normalizer = learner.critic_fit.value_normalizer
    assert normalizer is not None
    assert (normalizer.mean, normalizer.std) == pytest.approx((1.25, 0.25), abs=1e-3)
    assert normalizer.denormalize(outputs).tolist() == pytest.approx([1.5, 1.0], abs=0.02)


def test_rewards_are_scaled_as_in_training() -> None:
    data = demonstrations([0, 1] * 4, [0] * 8, [2] * 4)
    with closing(learner_for(scale_rewards=True, gamma=0.5, clip_rewards=3.0)) as learner:
        fit_statistics(data, learner)
        # Running returns 1 and 1.5: deviation 0.25, so rewards of 4, which are clipped to 3.
        returns = Data(data, learner).with_returns().returns
        assert learner.reward_scaler.state_dict()["count"] == 8
    assert returns.tolist() == pytest.approx([4.5, 3.0] * 4)


@pytest.mark.parametrize(("bootstraps", "value"), [(True, 4.0), (False, 0.0)])
def test_cut_episodes_have_a_value_unless_that_is_off(bootstraps: bool, value: float) -> None:
    data = demonstrations([0, 1] * 4, [0] * 8, [2] * 4)
    data = replace(data, terminated=np.zeros(4, np.bool_))
    with closing(learner_for(gamma=0.5, bootstrap_truncated=bootstraps)) as learner:
        policy = learner.policy
        with torch.no_grad():
            policy.critic_parameters.vector.zero_()
            policy.critic_parameters.vector[-1] = 16.0  # V = 16 everywhere
        returns = Data(data, learner).with_returns().returns
        plain = Data(replace(data, terminated=np.ones(4, np.bool_)), learner).with_returns().returns
    assert (returns - plain).tolist() == pytest.approx([value, 2 * value] * 4)


def test_without_critic_its_parameters_stay() -> None:
    with closing(learner_for()) as learner:
        before = learner.policy.critic_parameters.vector.clone()
        _, rows = fit(COUNTED, COUNTED, learner, FAST, ignore)
        assert rows == []
        assert torch.equal(learner.policy.critic_parameters.vector, before)


def test_critic_fit_leaves_the_actor_alone() -> None:
    with_critic, _, _ = fitted(COUNTED, config=BOTH)
    without, _, _ = fitted(COUNTED)
    ours, theirs = (learner.policy.actor_parameters.vector for learner in (with_critic, without))
    assert torch.equal(ours, theirs)


def descend(losses: list[float], patience: int | None) -> tuple[list[float], int]:
    vector, steps = torch.zeros(1), iter(range(1, len(losses)))
    config = CloneConfig(epochs=len(losses) - 1, patience=patience)

    def epoch() -> Row:
        vector.fill_(next(steps))
        return {}

    rows = _descend([vector], epoch, lambda: {"loss": losses[int(vector)]}, "loss", config, ignore)
    return [row["loss"] for row in rows], int(vector)


def test_early_stop_keeps_the_best_epoch() -> None:
    losses = [5.0, 4.0, 3.0, 3.5, 3.0, 2.0, 1.0]
    assert descend(losses, 2) == (losses[:5], 2)
    assert descend(losses, 3) == (losses, 6)
    assert descend([1.0, 2.0, 3.0], None) == ([1.0, 2.0, 3.0], 0)


def test_loss_that_is_not_finite_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"learning_rate=0.001: a loss of epoch 1 is not finite"):
        descend([1.0, math.nan], None)


@pytest.mark.parametrize("memory", ["gru", "lstm"])
def test_whole_episodes_are_sequences(memory: str) -> None:
    policy = rlkl.PolicyConfig(memory=memory, memory_size=4, actor_gain=1.0, sequence_length=2)
    states, actions, lengths = [0, 1, 1, 0, 1, 0, 0], [2, 0, 1, 1, 0, 2, 1], [4, 1, 2]
    data = replace(demonstrations(states, actions, lengths), terminated=np.array([False] * 3))
    with closing(learner_for(policy=policy, gamma=0.5)) as learner:
        engine, batch = learner.engine, Data(data, learner)
        losses, finals, row = [], [], 0
        for length in lengths:
            memories = learner.policy.initial_state(1)
            for t in range(length):
                vector = {"vector": torch.eye(2)[states[row : row + 1]]}
                distribution, memories = engine.step(vector, memories)
                losses.append(-distribution.log_prob(torch.tensor(actions[row : row + 1])))
                row += 1
                if t == length - 1:
                    last = Inputs({"vector": torch.eye(2)[:1]})
                    finals.append(engine.values(last, memories))
        measured = measure_policy(engine, batch.batch)["held_out/loss"]
        assert measured == pytest.approx(float(torch.cat(losses).mean()), rel=1e-5)
        bootstrapped = 1.5 + 0.25 * float(finals[2])
        returns = batch.with_returns().returns
        assert returns[5:].tolist() == pytest.approx([bootstrapped, 1 + 0.5 * float(finals[2])])


@pytest.mark.slow
def test_recurrent_policy_learns_what_it_saw() -> None:
    # The second action is the first state, which a policy without memory cannot know.
    policy = rlkl.PolicyConfig(memory="gru", memory_size=8, actor_hidden_sizes=[8])
    data = demonstrations([0, 0, 1, 0] * 4, [0, 0, 0, 1] * 4, [2] * 8)
    _, rows, _ = fitted(data, config=replace(FAST, batch_size=8), policy=policy)
    assert min(row["held_out/loss"] for row in rows) < 0.05


@pytest.mark.slow
def test_shared_encoder_is_fitted_for_both() -> None:
    policy = rlkl.PolicyConfig(share_encoder=True, encoder_hidden_sizes=[8])
    learner, _, values = fitted(COUNTED, config=BOTH, policy=policy)
    found = policy_in(learner, 0).log_probabilities.exp()
    assert found[0].tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    assert min(row["held_out/value_loss"] for row in values) < 1e-3


def test_kl_is_that_of_the_stated_policy() -> None:
    data = demonstrations([0, 1] * 4, [0, 1] * 4)
    logits = np.log(np.tile(np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]), (4, 1)))
    known = replace(data, parameters=logits.astype(np.float32))
    with closing(learner_for(policy=rlkl.PolicyConfig(actor_gain=1e-6))) as learner:
        row = measure_policy(learner.engine, Data(known, learner).batch)
    # log 3 minus the entropies 1.039721 and 0.639032.
    assert row["held_out/kl"] == pytest.approx((0.058892 + 0.459581) / 2, abs=1e-4)
    assert row["held_out/kl_max"] == pytest.approx(0.459581, abs=1e-4)
    assert row["held_out/loss"] == pytest.approx(math.log(3), abs=1e-4)


def test_normalizer_is_fitted_to_the_data() -> None:
    data = demonstrations([0, 1] * 4, [0] * 8)
    data = replace(data, observations={"vector": np.array([[3.0, 0], [7, 1]] * 4, np.float32)})
    with closing(learner_for("CartPole-v1", normalize_observations=True)) as learner:
        wide = replace(data, observations={"vector": np.tile(data.observations["vector"], (1, 2))})
        fit_statistics(wide, learner)
        state = learner.normalizer.state_dict()
        assert state["count"] == 8
        assert state["mean"] == pytest.approx([5.0, 0.5, 5.0, 0.5])
        finals = replace(wide, final_observations={"vector": np.zeros((8, 4), np.float32)})
        vectors = Data(finals, learner).batch.inputs.observations["vector"]
        assert vectors[1].tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0])


def test_pieces_measure_what_the_whole_does(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(learner_for()) as learner:
        data = Data(COUNTED, learner)
        whole = measure_policy(learner.engine, data.batch)
        values = measure_values(learner.engine, data.with_returns())
        monkeypatch.setattr("rlkl.tools.cloning.fit.ROWS_AT_ONCE", 4)
        assert measure_policy(learner.engine, data.batch) == pytest.approx(whole)
        assert measure_values(learner.engine, data.with_returns()) == pytest.approx(
            values, nan_ok=True
        )

"""Fit a policy and its critic to demonstrations, with early stops on held-out episodes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlkl.algos.base import MinibatchConfig
from rlkl.algos.critic import CriticFit
from rlkl.algos.first_order import FirstOrder
from rlkl.algos.vanilla_pg import LogLikelihood
from rlkl.engines.base import Engine
from rlkl.envs.observations import VECTOR, Observations, normalized
from rlkl.models.adam import mean_of
from rlkl.models.policy import Inputs
from rlkl.models.recurrent import Sequences
from rlkl.numerics.advantages import explained_variance
from rlkl.numerics.normalization import ObservationNormalizer, RewardScaler
from rlkl.rollouts.batch import Batch
from rlkl.rollouts.make import for_arrays
from rlkl.tools.cloning.config import CloneConfig
from rlkl.tools.cloning.demonstrations import Demonstrations
from rlkl.training.learner import Learner
from rlkl.utils.errors import ConfigError

Row = dict[str, float]
"""Numbers of an epoch by their column in `metrics.csv`."""

Tell = Callable[[str], None]
"""Reports progress in one line."""

ROWS_AT_ONCE = 4096
"""Transitions that are evaluated together, where no gradient needs them."""

HELD_OUT_LOSS, HELD_OUT_VALUE_LOSS = "held_out/loss", "held_out/value_loss"
COLUMNS = (
    "policy/loss", HELD_OUT_LOSS, "held_out/kl", "held_out/kl_max", "held_out/accuracy",
    "value/loss", HELD_OUT_VALUE_LOSS, "held_out/explained_variance",
)  # fmt: skip


class Data:
    """Demonstrations as a batch that a learner's policy can be fitted to.

    The advantages of the batch are 1, so the objective of the policy gradient is the
    log-likelihood. Its returns are 0 until `with_returns`.
    """

    def __init__(self, demonstrations: Demonstrations, learner: Learner) -> None:
        self._learner, policy = learner, learner.policy
        self._lengths = torch.as_tensor(demonstrations.lengths, device=policy.device)
        inputs = Inputs(self._tensors(demonstrations.observations), self._sequences())
        self._finals = self._tensors(demonstrations.final_observations)
        actions = policy.tensor(demonstrations.actions)
        zeros = torch.zeros(len(demonstrations), device=policy.device, dtype=policy.dtype)
        ones, parameters = torch.ones_like(zeros), policy.tensor(demonstrations.parameters)
        self.batch = Batch(inputs, actions, ones, zeros, parameters, zeros, zeros)
        config, rewards = learner.config, demonstrations.rewards
        if learner.reward_scaler is not None:
            scaler = RewardScaler(1, config.gamma)
            scaler.load_state_dict(learner.reward_scaler.state_dict())
            rewards = scaler(rewards)
        if (clip := config.clip_rewards) is not None:
            rewards = rewards.clip(-clip, clip)
        returns = demonstrations.discounted_returns(
            rewards, config.gamma, bootstrap_truncated=config.bootstrap_truncated
        )
        self._sums, self._weights = (torch.from_numpy(part.copy()) for part in returns)

    def _tensors(self, observations: Observations) -> dict[str, Tensor]:
        normalizer = for_arrays(self._learner.normalizer)
        return self._learner.policy.tensors(normalized(observations, normalizer))

    def _sequences(self, *, with_finals: bool = False) -> Sequences | None:
        """Return the whole episodes as sequences, for a policy with memory.

        With finals, the rows of the final observations follow those of all transitions.
        """
        policy, lengths = self._learner.policy, self._lengths
        if not policy.state_size:
            return None
        rows = torch.arange(int(lengths.sum()), device=policy.device)
        episodes = list(torch.split(rows, lengths.tolist()))
        if with_finals:
            episodes = [
                torch.cat((episode, rows.new_tensor([len(rows) + number])))
                for number, episode in enumerate(episodes)
            ]
        states = policy.initial_state(len(lengths))
        return Sequences(pad_sequence(episodes), lengths + with_finals, states)

    def with_returns(self) -> Batch:
        """Return the batch with the critic's targets; V(s) of a cut episode's end is the critic's.

        They are in units of the critic's outputs.
        """
        learner = self._learner
        values = self._final_values().double().cpu()
        if normalizer := learner.critic_fit.value_normalizer:
            values = normalizer.denormalize(values)
        returns = self._sums + self._weights * values.repeat_interleave(self._lengths.cpu())
        if normalizer:
            returns = normalizer.normalize(returns)
        return replace(self.batch, returns=learner.policy.tensor(returns))

    def _final_values(self) -> Tensor:
        engine, sequences = self._learner.engine, self._sequences(with_finals=True)
        if sequences is None:
            return engine.values(Inputs(self._finals))
        shown = self.batch.inputs.observations
        both = {key: torch.cat((shown[key], rows)) for key, rows in self._finals.items()}
        return engine.values(Inputs(both, sequences))[len(self.batch) :]


def fit_statistics(demonstrations: Demonstrations, learner: Learner) -> None:
    """Fit the learner's normalizer of observations and its scaler of rewards to demonstrations."""
    encoder, config = learner.envs.encoder, learner.config
    if learner.normalizer is not None:
        normalizer = ObservationNormalizer((encoder.vector_size,), is_measured=encoder.is_measured)
        normalizer.update(demonstrations.observations[VECTOR])
        learner.normalizer.load_state_dict(normalizer.state_dict())
    if learner.reward_scaler is not None:
        scaler = RewardScaler(1, config.gamma)
        ends = demonstrations.is_last[:, None]
        scaler.update(demonstrations.rewards[:, None], ends, np.ones_like(ends))
        start = {"returns": [0.0] * config.env.num_envs}
        learner.reward_scaler.load_state_dict(scaler.state_dict() | start)


def fit(
    demonstrations: Demonstrations, held_out: Demonstrations, learner: Learner,
    config: CloneConfig, tell: Tell,
) -> tuple[list[Row], list[Row]]:  # fmt: skip
    """Fit a learner's policy by maximum likelihood, and then its critic by least squares.

    Minimises -E[log π_θ(a|s)], and ½ E[(V(s) - R)²], with Adam. Each ends early, and keeps the
    parameters of the epoch with the lowest held-out loss. Observations and rewards are normalized
    by statistics of the fitted demonstrations, which then do not change.

    Returns:
        The rows of both fits, those of epoch 0, before the fit, included. The second is empty
        without `fit_critic`.

    Raises:
        ConfigError: an action has probability 0, or a loss is not finite.
    """
    fit_statistics(demonstrations, learner)
    data, others = Data(demonstrations, learner), Data(held_out, learner)
    engine, policy = learner.engine, learner.policy
    for part in (data, others):
        if not math.isfinite(measure_policy(engine, part.batch)[HELD_OUT_LOSS]):
            raise ConfigError(
                "the data has an action of probability 0, such as one that its mask does not "
                "allow, or numbers that are far too large; fix the data"
            )
    actor, critic = _optimizers(learner, config, -(-len(demonstrations) // config.batch_size))
    learner.critic_fit.adapt(data.with_returns())  # the statistics of returns

    def critic_epoch() -> Row:
        return {"value/loss": mean_of(critic.epochs(data.with_returns(), 0.0, 1)[0])}

    def actor_epoch() -> Row:
        batch = data.batch
        if policy.config.share_encoder:  # whose features are for the values too
            critic_epoch()
            batch = data.with_returns()
        return {"policy/loss": actor.update(batch, 0.0).metrics["policy/loss"]}

    vectors = [policy.actor_parameters.vector.data, policy.critic_parameters.vector.data]
    descend = partial(_descend, config=config, tell=tell)
    of_policy = descend(
        vectors, actor_epoch, lambda: measure_policy(engine, others.batch), HELD_OUT_LOSS
    )
    if not config.fit_critic:
        return of_policy, []
    return of_policy, descend(
        vectors[1:], critic_epoch, lambda: measure_values(engine, others.with_returns()),
        HELD_OUT_VALUE_LOSS,
    )  # fmt: skip


def _optimizers(
    learner: Learner, config: CloneConfig, num_minibatches: int
) -> tuple[FirstOrder, CriticFit]:
    """Return optimizers of actor and critic, whose updates make one pass over their batch."""
    device, streams = learner.policy.device, learner.streams
    steps: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "learning_rate_schedule": "constant",
        "learning_rate_warmup": 0.0,
        "max_grad_norm": config.max_grad_norm,
        "num_epochs": 1,
        "num_minibatches": num_minibatches,
    }
    actor = FirstOrder(
        MinibatchConfig(advantage_standardization="none", **steps),
        LogLikelihood(),
        learner.engine,
        streams.torch("clone policy minibatches", device),
    )
    critic = CriticFit(
        replace(learner.config.critic, value_clip=None, **steps),
        learner.engine,
        streams.torch("clone critic minibatches", device),
    )
    return actor, critic


def _descend(
    vectors: list[Tensor],
    epoch: Callable[[], Row],
    measure: Callable[[], Row],
    key: str,
    config: CloneConfig,
    tell: Tell,
) -> list[Row]:
    """Make epochs until a held-out loss has stopped falling; leave the best parameters."""
    rows = [measure()]
    if not math.isfinite(rows[0][key]):
        raise ConfigError(
            f"{key} is {rows[0][key]} before the fit: the data has numbers that are far too large; "
            "fix the data"
        )
    best, kept = 0, [vector.clone() for vector in vectors]
    for number in range(1, config.epochs + 1):
        rows.append(epoch() | measure())
        if not all(math.isfinite(rows[-1][name]) for name in rows[-1] if name.endswith("loss")):
            raise ConfigError(
                f"learning_rate={config.learning_rate:g}: a loss of epoch {number} is not finite; "
                "expected a smaller one"
            )
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in rows[-1].items())
        tell(f"epoch {number}: {numbers}")
        if rows[-1][key] < rows[best][key]:
            best, kept = number, [vector.clone() for vector in vectors]
        elif config.patience is not None and number - best >= config.patience:
            break
    for vector, values in zip(vectors, kept, strict=True):
        vector.copy_(values)
    return rows


def best_row(rows: list[Row], key: str) -> tuple[int, Row]:
    """Return the first epoch with the lowest loss, whose parameters were kept, and its row."""
    epoch = min(range(len(rows)), key=lambda number: rows[number][key])
    return epoch, rows[epoch]


def _pieces(batch: Batch) -> Iterator[Batch]:
    """Yield a batch in pieces of a bounded number of rows, or of single sequences."""
    size = max(1, ROWS_AT_ONCE * batch.num_parts // len(batch))
    for chosen in torch.split(torch.arange(batch.num_parts, device=batch.actions.device), size):
        yield batch.take(chosen)


def measure_policy(engine: Engine, batch: Batch) -> Row:
    """Return -E[log π(a|s)] in float64, and what else is known of π.

    If π_data is known, also the mean and the largest KL(π_data ‖ π) of a state; if the actions are
    discrete, the share of states whose most probable action is that of the data.
    """
    losses, kls, hits = [], [], []
    for piece in _pieces(batch):
        new = engine.distribution(piece.inputs, torch.float64)
        losses.append(-new.log_prob(piece.actions))
        if piece.old_parameters.shape[1]:
            kls.append(new.at(piece.old_parameters.double()).kl(new))
        if not engine.policy.decoder.is_continuous:
            hits.append((new.mode() == piece.actions).reshape(len(piece), -1).all(1))
    row = {HELD_OUT_LOSS: float(torch.cat(losses).mean())}
    if kls:
        kl = torch.cat(kls)
        row |= {"held_out/kl": float(kl.mean()), "held_out/kl_max": float(kl.max())}
    if hits:
        row["held_out/accuracy"] = float(torch.cat(hits).double().mean())
    return row


def measure_values(engine: Engine, batch: Batch) -> Row:
    """Return ½ E[(V(s) - R)²], and the share of the returns' variance that V explains."""
    pairs = [(engine.values(piece.inputs), piece.returns) for piece in _pieces(batch)]
    values, returns = (torch.cat(part).double() for part in zip(*pairs, strict=True))
    (explained,) = explained_variance(values[None], returns)
    loss = 0.5 * float((values - returns).square().mean())
    return {HELD_OUT_VALUE_LOSS: loss, "held_out/explained_variance": explained}

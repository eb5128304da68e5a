"""Measure whether a run's networks are slower on its device than on the CPU."""

import time
from dataclasses import replace

import numpy as np
import torch

from rlkl.algos.natural_gradient import Surrogate
from rlkl.engines.base import Engine
from rlkl.engines.make import make_engine
from rlkl.models.policy import Inputs, Policy
from rlkl.rollouts.batch import Batch, sequences_of
from rlkl.training.learner import Learner

CLEARLY = 1.2  # times as slow: below it there is no warning
SHORT = 0.05  # seconds: where a gradient takes longer on the CPU, a device is not in doubt
REPETITIONS = 10
FIRST_ROWS = 64  # what is measured first, so that large minibatches do not keep the CPU busy


def device_warning(learner: Learner) -> str:
    """Return a warning in one line if `device` is clearly slower than the CPU; else empty.

    It measures the actor's gradient on a minibatch of the run's size, with networks and
    observations of its own, in about a second at most. Environments on the device and several
    ranks are not only a matter of the networks, so for these nothing is measured.
    """
    config, device = learner.config, learner.policy.device
    if device.type == "cpu" or learner.envs.backend == "tensor" or learner.ranks.size > 1:
        return ""
    rows = config.rollout_steps * config.env.num_envs // getattr(config.algo, "num_minibatches", 1)
    try:
        engine, size = _engine(learner, torch.device("cpu")), min(rows, FIRST_ROWS)
        while (on_cpu := gradient_seconds(engine, size)) < SHORT and size < rows:
            size = min(rows, 4 * size)
        if on_cpu >= SHORT:
            return ""
        on_device = gradient_seconds(_engine(learner, device), rows)
    except torch.OutOfMemoryError:  # training says what needs the memory
        return ""
    if on_device < CLEARLY * on_cpu:
        return ""
    return (
        f"warning: device={config.device} is slower than the CPU here: {1000 * on_device:.2g} ms "
        f"against {1000 * on_cpu:.2g} ms for the actor's gradient on a minibatch of {rows:,}; "
        "device=cpu trains faster"
    )


def gradient_seconds(engine: Engine, rows: int) -> float:
    """Return the seconds of the actor's gradient on a minibatch, the least of several."""
    objective = Surrogate()
    seconds: list[float] = []
    minibatch = engine.rows(_batch(engine, rows), objective)
    while len(seconds) <= REPETITIONS and (len(seconds) < 2 or sum(seconds) < 2 * SHORT):
        start = time.perf_counter()
        engine.policy_gradient(objective, minibatch)
        engine.policy.actor_parameters.gradient[0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])  # the first is a warm-up


def _engine(learner: Learner, device: torch.device) -> Engine:
    """Return new networks like the learner's; torch's own generator stays as it was."""
    of = learner.policy
    config = replace(of.config, initialization="uniform")  # the fastest
    with torch.random.fork_rng(devices=[]):
        generator = torch.Generator().manual_seed(0)
        return make_engine(Policy(config, of.encoder, of.decoder.space, generator, device))


@torch.no_grad()
def _batch(engine: Engine, rows: int) -> Batch:
    """Return a batch of zeros; with a memory, of as many sequences of full length as fit."""
    policy, sequences = engine.policy, None
    if policy.state_size:
        steps = min(rows, policy.config.sequence_length)
        count = rows // steps
        rows, marks = steps * count, np.zeros((steps, count), np.bool_)
        states = policy.initial_state(count).expand(steps, -1, -1)
        sequences = sequences_of(~marks, marks, states, policy)
    zeros = {key: np.zeros_like(array) for key, array in policy.encoder.empty(rows).items()}
    inputs = Inputs(policy.tensors(zeros), sequences)
    old = engine.distribution(inputs)
    actions = old.mode()
    log_prob = old.log_prob(actions)
    ones = torch.ones_like(log_prob)
    return Batch(inputs, actions, ones, ones, old.parameters, log_prob, ones)

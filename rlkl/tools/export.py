"""Export of a trained policy as an ONNX model, compared with the policy."""

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from numpy.typing import NDArray
from torch import Tensor, nn

from rlkl.engines.acting import TrainedPolicy
from rlkl.envs.observations import VECTOR, normalized
from rlkl.envs.tensor_spaces import TensorDecoder
from rlkl.models.policy import Policy
from rlkl.utils.validation import check_installed
from rlkl.version import __version__

OPSET = 18
"""Version of ONNX's operators that the model uses."""

STATE, NEXT_STATE = "state", "next_state"
PARAMETERS, ACTION = "parameters", "action"

TOLERANCE = 1e-3
"""Largest relative difference between model and policy."""

NUM_OBSERVATIONS = 64
"""Random observations on which they are compared."""


@dataclass(frozen=True)
class Exported:
    """An ONNX model and its largest differences from the policy."""

    model: bytes
    inputs: dict[str, str]  # type and shape by name
    outputs: dict[str, str]
    difference: float  # of the distribution's parameters
    action_difference: float
    num_observations: int  # number of observations compared
    columns: dict[str, tuple[int, int]]  # start and end of each part's columns in the vector


def export_onnx(trained: TrainedPolicy) -> Exported:
    """Return a policy with its normalizer as an ONNX model, and compare the two.

    Inputs: `vector` `[batch, D]` float32, the concatenated numbers of a raw observation with
    Discrete parts one-hot encoded; each image, uint8 `[batch, C, H, W]`; with a memory, `state`
    `[batch, M]`, zeros at the start of an episode. Outputs: `parameters` `[batch, P]` of the action
    distribution; `action`, the deterministic action in the environment's format, without masks;
    with a memory, `next_state`. The model's metadata contain the vector's columns of each part of
    an observation.

    Raises:
        ConfigError: the packages of the extra `export` are missing.
        RuntimeError: model and policy differ.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        check_installed(package, "export", "an ONNX model")
    actor = _DeterministicActor(trained)
    encoded = _seen_by_actor(trained, _random_observations(trained, 2))
    names = list(encoded)
    examples = [torch.as_tensor(encoded[name]) for name in names]
    outputs = [PARAMETERS, ACTION]
    if actor.state_size:
        names, outputs = [*names, STATE], [*outputs, NEXT_STATE]
        examples.append(torch.zeros(2, actor.state_size))
    batch = {0: torch.export.Dim("batch")}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            actor.eval(),
            tuple(examples),
            input_names=names,
            output_names=outputs,
            dynamic_shapes=(tuple(batch for _ in examples),),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model: Any = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # traces with paths of this machine
    columns = _columns_seen(trained.policy)
    metadata = {
        "rlkl": __version__,
        "observation_space": str(trained.policy.encoder.space),
        "action_space": str(trained.policy.decoder.space),
        "vector_columns": json.dumps(columns),
    }
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    return _compared(model.SerializeToString(), trained, actor.state_size, columns)


def _columns_seen(policy: Policy) -> dict[str, tuple[int, int]]:
    """Return start and end of each part's columns in the vector that the actor reads."""
    columns, seen = policy.encoder.columns, policy.actor_view.columns
    if seen is None:
        return columns
    return {
        part: (seen.index(start), seen.index(start) + end - start)
        for part, (start, end) in columns.items()
        if start in seen
    }


class _DeterministicActor(nn.Module):
    """Map raw observations to parameters, actions and the memory's next state, all in torch."""

    def __init__(self, trained: TrainedPolicy) -> None:
        super().__init__()
        policy, normalizer = trained.policy, trained.normalizer
        self.family: Any = policy.family
        self.actor, self.space = policy.actor, policy.decoder.space
        view = policy.actor_view
        self.names = list(view.shapes)
        columns: Any = slice(None) if view.columns is None else view.columns
        if view.columns is not None:  # the model's vector has the actor's columns only
            self.actor = copy.deepcopy(policy.actor)
            self.actor.encoder.register_buffer("columns", None)
        self.state_size = self.actor.memory.state_size if self.actor.memory else 0
        self.decode = TensorDecoder(policy.decoder, torch.device("cpu"))
        self.clip = normalizer.clip if normalizer else None
        if normalizer is not None:
            self.mean = nn.Buffer(torch.from_numpy(normalizer.mean[columns].copy()))
            self.scale = nn.Buffer(torch.from_numpy(normalizer.scale[columns].copy()))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        observations = dict(zip(self.names, inputs, strict=False))
        if self.clip is not None and VECTOR in observations:
            centred = (observations[VECTOR] - self.mean) * self.scale
            observations[VECTOR] = centred.clamp(-self.clip, self.clip)
        state = inputs[-1] if self.state_size else inputs[0].new_zeros(())
        parameters, state = self.actor.step(observations, state)
        action = self.decode(self._mode(parameters))
        return (parameters, action, state) if self.state_size else (parameters, action)

    def _mode(self, parameters: Tensor) -> Tensor:
        """Do what `Distribution.mode` does, traceable for any batch."""
        if isinstance(self.space, Discrete):
            return parameters.argmax(-1)
        if isinstance(self.space, MultiDiscrete):
            groups = torch.split(parameters, self.space.nvec.ravel().tolist(), -1)
            return torch.stack([group.argmax(-1) for group in groups], -1)
        if isinstance(self.space, Box):
            mean: Tensor = self.family(parameters).mode()
            return mean
        return parameters > 0


def _random_observations(trained: TrainedPolicy, count: int) -> dict[str, NDArray[Any]]:
    encoder = trained.policy.encoder
    encoder.space.seed(0)
    encoded = encoder.stack([encoder.space.sample() for _ in range(count)])
    # The model's vector is float32, also where the environment's numbers are float64.
    return {
        key: array.astype(np.float32) if key == VECTOR else array for key, array in encoded.items()
    }


def _seen_by_actor(
    trained: TrainedPolicy, observations: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the part of encoded observations that is the model's input."""
    view = trained.policy.actor_view
    seen = {key: observations[key] for key in view.shapes}
    if view.columns and VECTOR in seen:
        seen[VECTOR] = seen[VECTOR][:, view.columns]
    return seen


@torch.no_grad()
def _compared(
    model: bytes, trained: TrainedPolicy, state_size: int, columns: dict[str, tuple[int, int]]
) -> Exported:
    """Compare the model with the policy; with a memory, over several steps."""
    import onnxruntime  # noqa: PLC0415 (an extra)

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    policy = trained.policy
    observations = _random_observations(trained, NUM_OBSERVATIONS)
    normalized_observations = policy.tensors(normalized(observations, trained.normalizer))
    states = policy.initial_state(NUM_OBSERVATIONS)
    model_states = np.zeros((NUM_OBSERVATIONS, state_size), np.float32)
    difference = action_difference = 0.0
    for _ in range(4 if state_size else 1):
        distribution, states = trained.engine.step(normalized_observations, states)
        inputs = _seen_by_actor(trained, observations)
        inputs |= {STATE: model_states} if state_size else {}
        parameters, actions, *new_states = session.run(None, inputs)
        if new_states:
            (model_states,) = new_states
        expected = distribution.parameters.numpy()
        difference = max(difference, float(np.abs(parameters - expected).max()))
        errors = np.abs(actions.astype(np.float64) - policy.decoder(distribution.mode().numpy()))
        action_difference = max(action_difference, float(errors.max()))
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise RuntimeError(
                f"the ONNX model's parameters differ from the policy's by {difference:g}"
            )
    model_inputs, model_outputs = (
        {value.name: f"{value.type} {value.shape}" for value in values}
        for values in (session.get_inputs(), session.get_outputs())
    )
    return Exported(
        model, model_inputs, model_outputs, difference, action_difference, NUM_OBSERVATIONS, columns
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's warnings about its deprecations and torchvision."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(before)

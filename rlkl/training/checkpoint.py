"""A run's state on the disk, and the trained policy read back from it."""

import io
import pickle
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from rlkl.envs.make import EnvConfig
from rlkl.envs.spaces import (
    ACTION_MASK,
    ObservationEncoder,
    Observations,
    describe_space,
    described_space,
    mask_rows,
    normalized,
)
from rlkl.models.policy import Policy, PolicyConfig
from rlkl.numerics.normalization import ObservationNormalizer
from rlkl.training.archive import check_described, read_archive
from rlkl.training.evaluation import MAX_EPISODE_STEPS
from rlkl.training.resource_checks import machine_memory
from rlkl.utils.atomic_files import write_durably
from rlkl.utils.field_types import check_fields
from rlkl.utils.found_files import MissingFileError, read_bytes, reading
from rlkl.utils.saved_keys import as_meant
from rlkl.utils.validation import (
    BrokenEnvironmentError,
    ConfigError,
    check_choice,
    check_range,
    one_line,
)

FORMAT = 3
"""Grows with every change that older code cannot read."""

LAST = "last.pt"
BEST = "best.pt"
CHECKPOINTS = ("last", "best")
"""Of a run: its newest, and the one of the best return."""


@dataclass(frozen=True)
class CheckpointConfig:
    """When a run's state is kept, beside its beginning and its end.

    Attributes:
        interval: iterations from one checkpoint to the next. null stands for 50. Environments that
            cannot be restored are recreated after each checkpoint; for them null stands for a tenth
            of the budget, within 10 to 100 iterations, and for two of the longest episodes at
            least.
        keep: how many of them; older ones are removed.
    """

    interval: int | None = None
    keep: int = 3

    def __post_init__(self) -> None:
        check_fields(self, "checkpoint.")
        if self.interval is not None:
            check_range("checkpoint.interval", self.interval, at_least=1)
        check_range("checkpoint.keep", self.keep, at_least=1)


def as_bytes(state: dict[str, Any]) -> bytes:
    """Return the content of a checkpoint's file.

    Args:
        state: tensors, numbers, strings, and lists and dicts of them.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | state, buffer)
    return buffer.getvalue()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state so that the file is whole at every moment.

    Args:
        path: its folder is made if need be.
        state: tensors, numbers, strings, and lists and dicts of them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, as_bytes(state))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state; nothing in the file is run as code.

    Raises:
        ConfigError: there is no such file, it is damaged, or it is not of this format; the message
            names one beside it that can be read, if there is any.
    """
    try:
        return _read(path)
    except ConfigError as error:
        other = next(filter(_is_good, numbered(path.parent)), None)
        if other is None:
            raise
        raise ConfigError(f"{error}; {other} can be read") from error.__cause__


def _is_good(path: Path) -> bool:
    try:
        _read(path)
    except ConfigError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_archive(read_bytes(path, at_most=machine_memory()))
        written = int(state["format"])
    except MissingFileError:
        raise ConfigError(f"{path}: there is no such checkpoint") from None
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} is not a checkpoint that can be read: it holds something else than data, "
            "which could be code to run; rlkl never writes such a file, so do not trust it"
        ) from error
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"{path} is not a checkpoint that can be read: {reason}") from error
    if written < FORMAT:
        raise ConfigError(
            f"{path} has format {written}, older than {FORMAT}: this rlkl cannot read it; use the "
            "version that wrote it (summary.json says which)"
        )
    if written > FORMAT:
        raise ConfigError(
            f"{path} has format {written}, newer than {FORMAT} of this rlkl; upgrade rlkl"
        )
    return state


@contextmanager
def taking_from(path: Path) -> Iterator[None]:
    """Turn what a state that could be read lacks, or has in another form, into one line.

    Args:
        path: of the checkpoint.

    Raises:
        ConfigError: the state is not that of a run.
    """
    try:
        yield
    except ConfigError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"{path} is not the checkpoint of a run: {type(error).__name__}: {one_line(error)}; "
            "name another"
        ) from error


def numbered(folder: Path) -> list[Path]:
    """Return the checkpoints that were kept by the rule, the newest first."""
    found = {
        int(path.stem.removeprefix("step_")): path
        for path in folder.glob("step_*.pt")
        if path.stem.removeprefix("step_").isdecimal()
    }
    return [found[env_steps] for env_steps in sorted(found, reverse=True)]


def newest(
    folder: Path,
    other_run: Callable[[dict[str, Any]], str] = lambda state: "",
    *,
    exact: bool = True,
) -> tuple[Path, dict[str, Any], list[str]]:
    """Find the newest checkpoint that a run can go on from.

    Args:
        folder: of checkpoints.
        other_run: says of a state by what it is that of another run; empty if it is not.
        exact: whether the run is to have the bits of one never stopped; else `last.pt` is good
            wherever it was written between two iterations.

    Returns:
        Its path, its state, and what was passed over and why, a line each.

    Raises:
        ConfigError: there is none.
    """
    found: tuple[Path, dict[str, Any]] | None = None
    passed: list[str] = []
    beyond, whole = -1, False
    for path in (folder / LAST, *numbered(folder)):
        if not path.exists():
            continue
        try:
            state = _read(path)
            with taking_from(path):
                resumable, env_steps = bool(state["resumable"]), int(state["env_steps"])
                is_whole = bool(resumable or _is_whole(state))
                if difference := other_run(state):
                    raise ConfigError(f"{path} is of another run, with {difference}")
        except ConfigError as error:
            passed.append(str(error))
            continue
        if not resumable and not (is_whole and not exact):
            beyond, whole = env_steps, is_whole
        elif found is None or env_steps > found[1]["env_steps"]:
            found = path, state
        if found is not None and path.name != LAST:
            break
    if found is None:
        why = f": {passed[0]}" if passed else ""
        raise ConfigError(f"{folder} has no checkpoint that a run can go on from{why}")
    path, state = found
    if beyond > state["env_steps"]:
        command = f"rlkl resume {shlex.quote(str(folder.parent))} exact=false"
        instead = f"; {LAST} spares them: {command}" if whole else ""
        passed.append(
            f"{path.name} is taken and not {LAST}, from which no run goes on exactly: "
            f"{beyond - state['env_steps']} environment steps are made again, as they were{instead}"
        )
    return path, state, passed


def _is_whole(state: dict[str, Any]) -> bool:
    """Whether a state that is not one to resume from was taken between two iterations.

    Older versions do not say so. Where environments can be restored, theirs was not.
    """
    return bool(state["whole"] if "whole" in state else state["collector"]["under_way"] is None)


class TrainedPolicy:
    """A policy that acts on raw observations, as it did at the end of its run.

    Args:
        policy: acts.
        normalizer: of observations, if training normalised them.
    """

    def __init__(self, policy: Policy, normalizer: ObservationNormalizer | None) -> None:
        self.policy = policy
        self.normalizer = normalizer
        self._states: Tensor | None = None

    def reset(self) -> None:
        """Forget the past: call it at the beginning of each episode if the policy has a memory."""
        self._states = None

    @torch.no_grad()
    def act(
        self,
        observation: Any,
        generator: Generator | None = None,
        action_mask: Any | None = None,
    ) -> Any:
        """Return an action that the environment takes.

        Args:
            observation: raw, as the environment shows it.
            generator: source of sampled actions; None takes the most probable action.
            action_mask: which actions are allowed, as the environment gives it.

        Raises:
            ConfigError: an observation or a mask that is not as in training.
        """
        policy = self.policy
        encoded = self._encoded(observation, action_mask)
        seen = policy.tensors(normalized(encoded, self.normalizer))
        states = policy.initial_state(1) if self._states is None else self._states
        distribution, self._states = policy.step(seen, states)
        chosen = distribution.mode() if generator is None else distribution.sample(generator)
        return policy.decoder(chosen.cpu().numpy())[0]

    def _encoded(self, observation: Any, action_mask: Any | None) -> Observations:
        encoder, decoder = self.policy.encoder, self.policy.decoder
        is_masked = isinstance(observation, dict) and ACTION_MASK in observation
        if action_mask is None and is_masked and ACTION_MASK not in encoder.keys and encoder.keys:
            action_mask = observation[ACTION_MASK]
        try:
            encoder.check_single(observation)
            encoded = encoder.stack([observation], "the observation")
            if action_mask is not None:
                none = np.zeros(1, np.bool_)
                masks = mask_rows(decoder.space, [action_mask], none, "the observation")
                encoded[ACTION_MASK] = masks
        except BrokenEnvironmentError as error:  # there is no environment here
            text = str(error).removeprefix("the observation: ").replace(" of copy 0", "")
            raise ConfigError(f"act: {text}") from None
        return encoded


def describe_policy(policy: Policy) -> dict[str, Any]:
    """Return what `load_policy` needs beside the weights, as plain numbers, lists and strings."""
    return {
        "config": asdict(policy.config),
        "observation_space": describe_space(policy.encoder.space),
        "observation_keys": list(policy.encoder.keys),
        "action_space": describe_space(policy.decoder.space),
    }


def checkpoint_path(run_dir: str | Path, checkpoint: str = "last") -> Path:
    """Return where a run's checkpoint lies.

    Args:
        run_dir: the run's folder, or one of its checkpoints, which is meant then.
        checkpoint: `last` or `best`.

    Raises:
        ConfigError: there is no such folder, it is no run's, or the run has no such checkpoint.
    """
    check_choice("checkpoint", checkpoint, CHECKPOINTS)
    folder = Path(run_dir)
    path = folder / "checkpoints" / f"{checkpoint}.pt"
    with reading(folder):
        if folder.suffix == ".pt" and not folder.is_dir():
            return folder
        if path.exists():
            return path
    if not folder.is_dir():
        raise ConfigError(f"{run_dir}: there is no such folder")
    if not (folder / "config.yaml").exists():
        raise ConfigError(
            f"{run_dir} is not the folder of a run: it has neither {path.relative_to(folder)} nor "
            "config.yaml"
        )
    if checkpoint == "best":
        raise ConfigError(
            f"{run_dir} has no {path.relative_to(folder)}: no episode had ended by its "
            "last checkpoint; the checkpoint last is there for every run"
        )
    raise ConfigError(
        f"{run_dir} has no {path.relative_to(folder)}: a run writes it when it ends, and this one "
        "has not ended, or was killed"
    )


def folder_of(run_dir: str | Path) -> Path:
    """Return the run's folder where it, or one of its checkpoints, is meant."""
    path = Path(run_dir)
    if path.suffix != ".pt" or path.is_dir():
        return path
    folder = path.absolute().parent
    return folder.parent if folder.name == "checkpoints" else folder


@dataclass(frozen=True)
class TrainedRun:
    """What is left of a run to use.

    Attributes:
        policy: acts.
        env: the environments that it was trained in.
        env_steps: made when the checkpoint was written.
        threads: that it was trained with.
        max_episode_steps: after which an evaluation ends an episode.
    """

    policy: TrainedPolicy
    env: EnvConfig
    env_steps: int
    threads: int
    max_episode_steps: int


def load_run(run_dir: str | Path, checkpoint: str = "last") -> TrainedRun:
    """Read what is needed to run a policy in environments like those of its training.

    Args:
        run_dir: the run's folder.
        checkpoint: `last` or `best`.

    Raises:
        ConfigError: the folder has no such checkpoint, or none that can be read.
    """
    path = checkpoint_path(run_dir, checkpoint)
    state = load_checkpoint(path)
    with taking_from(path):
        config = state["config"]
        env = EnvConfig(**config["env"])
        threads = config["threads"]
        if not isinstance(threads, int) or not 1 <= threads <= 1024:
            raise ValueError(f"threads={threads}; expected 1 to 1024")
        limit = int(config.get("eval_max_episode_steps", MAX_EPISODE_STEPS))
        check_range("eval_max_episode_steps", limit, at_least=1)
        return TrainedRun(_policy_of(state), env, int(state["env_steps"]), threads, limit)


def load_policy(run_dir: str | Path, checkpoint: str = "last") -> TrainedPolicy:
    """Read the policy of a run's folder.

    Args:
        run_dir: the run's folder.
        checkpoint: `last`, or `best`, the one of the best return.

    Raises:
        ConfigError: the folder has no such checkpoint, or none that can be read.
    """
    path = checkpoint_path(run_dir, checkpoint)
    state = load_checkpoint(path)
    with taking_from(path):
        return _policy_of(state)


def _policy_of(state: dict[str, Any]) -> TrainedPolicy:
    description = state["policy_description"]
    check_described(description, state["policy"])
    encoder = ObservationEncoder(
        described_space(description["observation_space"]), description["observation_keys"]
    )
    check_described(description, state["policy"], encoder.vector_size)
    config = PolicyConfig(**as_meant("policy", description["config"]))
    action_space = described_space(description["action_space"])
    policy = Policy(config, encoder, action_space, torch.Generator())
    policy.load_state_dict(state["policy"])
    normalizer = None
    if state["normalizer"] is not None:
        normalizer = ObservationNormalizer((encoder.vector_size,), is_measured=encoder.is_measured)
        normalizer.load_state_dict(state["normalizer"])
    numbers: list[Tensor] = [policy.actor_parameters.vector, policy.critic_parameters.vector]
    if normalizer is not None:
        numbers += [torch.as_tensor(normalizer.mean), torch.as_tensor(normalizer.scale)]
    if not all(bool(part.isfinite().all()) for part in numbers):
        raise ConfigError(
            "the policy holds numbers that are not finite, so it cannot act; take an earlier "
            "checkpoint of the run"
        )
    return TrainedPolicy(policy, normalizer)

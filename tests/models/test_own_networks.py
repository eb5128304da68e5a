"""Networks that users register: their contract, every algorithm, and the Fisher matrix."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from algorithm_checks import EVERY_ALGORITHM, optimizer_of
from engines_available import ENGINES, needs_numpy_engine
from gymnasium.spaces import Box, Dict, Discrete
from made_batches import batch_for
from torch import Generator, Tensor, nn

import rlkl
from rlkl.engines.make import make_engine
from rlkl.engines.torch import TorchEngine
from rlkl.envs.observations import ObservationEncoder
from rlkl.models import own_networks
from rlkl.models.policy import Inputs, Policy, PolicyConfig
from rlkl.utils.errors import BrokenNetworkError, ConfigError


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    for registry in own_networks.REGISTRIES.values():
        registry.clear()
    rlkl.register_encoder("plain")(Plain)
    rlkl.register_actor_head("linear")(Linear)
    rlkl.register_actor_critic("pair")(Pair)
    yield
    for registry in own_networks.REGISTRIES.values():
        registry.clear()


class Plain(nn.Module):
    """tanh(W x), of a width, with something wrong if asked."""

    def __init__(self, shapes: dict[str, Any], width: int = 6, wrong: str = "") -> None:
        super().__init__()
        self.layer = nn.Linear(shapes["vector"][0], width)
        self.wrong = wrong
        self.norm = {
            "BatchNorm": nn.BatchNorm1d(width),
            "batch": nn.BatchNorm1d(width, track_running_stats=False),
            "dropout": nn.Dropout(0.5),
        }.get(wrong, nn.Identity())
        if wrong == "constructor":
            raise KeyError("lost")

    def forward(self, observations: dict[str, Tensor]) -> Any:
        features = self.norm(self.layer(observations["vector"])).tanh()
        wrong: dict[str, Any] = {
            "shape": features.sum(-1),
            "nan": features / 0,
            "type": [features],
            "ints": features.long(),
            "detached": features.detach(),
            "rows": features[:1],
            "empty": features[:, :0],
            "zeros": features / observations["vector"].abs().sum(),
            "numbers": features / (observations["vector"].abs().sum() == 0),
        }
        if self.wrong == "raises":
            raise ValueError("two\nlines")
        return wrong.get(self.wrong, features)


class Sine(torch.autograd.Function):
    """A function without a forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0].cos()


class Sines(nn.Module):
    def __init__(self, shapes: dict[str, Any], own: bool) -> None:
        super().__init__()
        self.layer, self.own = nn.Linear(shapes["vector"][0], 6), own

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        at = self.layer(observations["vector"])
        sines: Tensor = Sine.apply(at) if self.own else at.sin()  # type: ignore[no-untyped-call]
        return sines


class Linear(nn.Linear):
    pass


class Pair(nn.Module):
    def __init__(
        self, actor: Any, critic: Any, outputs: int, shared: bool = False, wrong: str = ""
    ) -> None:
        super().__init__()
        first = nn.Sequential(_Vector(), nn.Linear(actor["vector"][0], 5), nn.Tanh())
        other = nn.Sequential(_Vector(), nn.Linear(critic["vector"][0], 5), nn.Tanh())
        self.actor = nn.Sequential(first, nn.Linear(5, outputs))
        self.critic = nn.Sequential(first if shared else other, nn.Linear(5, 1))
        if wrong == "no critic":
            self.critic = None  # type: ignore[assignment]
        elif wrong == "wide critic":
            self.critic[1] = nn.Linear(5, 2)
        elif wrong == "random actor":
            self.actor.append(nn.Dropout(0.5))
        elif wrong == "buffer":
            numbers = torch.ones(1)
            for part in (self.actor, self.critic):
                part.register_buffer("numbers", numbers)


class _Vector(nn.Module):
    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        return observations["vector"]


def policy_with(space: Any = None, actions: Any = None, seed: int = 0, **settings: Any) -> Policy:
    encoder = ObservationEncoder(space or Box(-1, 1, (4,)))
    config = PolicyConfig([8], [8], **settings)
    return Policy(config, encoder, actions or Discrete(3), Generator().manual_seed(seed))


OWN = [
    {"encoder": "plain"},
    {"actor_head": "linear"},
    {"encoder": "plain", "actor_head": "linear", "memory": "gru", "memory_size": 4},
    {"actor_critic": "pair"},
]


@EVERY_ALGORITHM
def test_every_algorithm_trains_own_networks(name: str) -> None:
    policy = policy_with(**OWN[2])
    batch = batch_for(policy, "gru", 64)
    before = policy.actor_parameters.vector.data.clone()
    log_prob = policy.distribution(batch.inputs).log_prob(batch.actions)
    torch.testing.assert_close(log_prob, batch.old_log_prob, rtol=0, atol=1e-6)
    optimizer_of(name, policy).update(batch, 0.0)
    assert not torch.equal(before, policy.actor_parameters.vector.data)


@pytest.mark.parametrize("settings", OWN)
def test_own_weights_depend_on_generator_alone(settings: dict[str, Any]) -> None:
    first = policy_with(**settings).actor_parameters.vector.data
    torch.rand(3)
    assert torch.equal(first, policy_with(**settings).actor_parameters.vector.data)
    assert not torch.equal(first, policy_with(seed=1, **settings).actor_parameters.vector.data)


def test_making_networks_leaves_torchs_random_numbers() -> None:
    state = torch.get_rng_state()
    policy_with(actor_critic="pair")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("constructor", "cannot be made: KeyError: 'lost'"),
        ("raises", "ValueError: two lines"),
        ("shape", "returns [B] of float32; expected a tensor of floats [B, F]"),
        ("type", "returns list"),
        ("ints", "of int64"),
        ("nan", "not finite for"),
        ("rows", "returns [1, 6] of float32"),
        ("empty", "returns [B, 0] of float32"),
        ("zeros", "not finite for zeros"),
        ("numbers", "not finite for random numbers"),
        ("detached", "no gradient reaches"),
        ("BatchNorm", "changes its buffer norm.running_mean"),
        ("batch", "depends on the other rows"),
        ("dropout", "two calls with the same inputs differ"),
    ],
)
def test_broken_contract_is_named(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policy_with(encoder="plain", encoder_kwargs={"wrong": wrong})
    text = str(caught.value)
    assert text.startswith("policy.encoder=plain (test_own_networks.Plain)") and said in text
    assert "\n" not in text


def test_shared_parameters_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy.actor_critic=pair: actor and critic share"):
        policy_with(actor_critic="pair", actor_critic_kwargs={"shared": True})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("no critic", "its part 'critic' is NoneType; expected a torch module"),
        ("wide critic", r", critic returns \[B, 2\] of float32; expected .* \[B, 1\]"),
        ("random actor", ", actor: two calls with the same inputs differ"),
        ("buffer", "actor and critic share encoder.module.numbers"),
    ],
)
def test_parts_of_a_pair_are_checked(wrong: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        policy_with(actor_critic="pair", actor_critic_kwargs={"wrong": wrong})


def test_only_torch_modules_with_parameters_train() -> None:
    rlkl.register_encoder("three")(lambda shapes: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(ConfigError, match="is int; expected a torch module"):
        policy_with(encoder="three")
    rlkl.register_encoder("nothing")(lambda shapes: _Vector())
    policy_with(encoder="nothing")  # the head has parameters
    rlkl.register_actor_critic("frozen")(lambda *given: Pair(*given).requires_grad_(False))
    with pytest.raises(ConfigError, match="the actor has no parameters to train"):
        policy_with(actor_critic="frozen")


def test_running_out_of_memory_is_not_the_networks_error() -> None:
    policy = policy_with(encoder="plain")
    encoder: Any = policy.actor.encoder

    def fail(observations: Any) -> None:
        raise torch.OutOfMemoryError("full")

    encoder.module.forward = fail
    with pytest.raises(torch.OutOfMemoryError):
        policy.distribution(Inputs({"vector": torch.zeros(2, 4)}))


def test_images_are_bytes_and_masks_are_hidden() -> None:
    seen: list[dict[str, Tensor]] = []

    class Mean(nn.Module):
        def forward(self, observations: dict[str, Tensor]) -> Tensor:
            seen.append(observations)
            return observations["image"].float().mean((2, 3))

    rlkl.register_encoder("mean")(lambda shapes: Mean())
    policy = policy_with(Box(0, 255, (8, 8, 3), np.uint8), encoder="mean")
    random = [int(inputs["image"].max()) for inputs in seen]
    assert max(random) > 200 and {inputs["image"].dtype for inputs in seen} == {torch.uint8}
    mask, images = torch.ones(2, 3, dtype=torch.bool), seen[0]["image"][:2]
    policy.distribution(Inputs({"image": images, "action_mask": mask}))
    assert seen[-1].keys() == {"image"}


def test_module_registers_what_the_config_names(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PolicyConfig(encoder="late", module="late_networks")
    with pytest.raises(ConfigError, match=r"policy.module=late_networks: .*late_networks\.py"):
        own_networks.import_networks(config)
    monkeypatch.setitem(sys.modules, "late_networks", ModuleType("late_networks"))
    with pytest.raises(ConfigError, match=r"policy.encoder=late: no such network is registered"):
        own_networks.import_networks(config)
    rlkl.register_encoder("late")(Plain)
    own_networks.import_networks(config)


def test_head_of_another_width_is_refused() -> None:
    rlkl.register_actor_head("wide")(lambda features, outputs: nn.Linear(features, outputs + 1))
    with pytest.raises(ConfigError, match=r"returns \[B, 4\] of float32; expected .* \[B, 3\]"):
        policy_with(actor_head="wide")


def test_failure_in_training_names_the_network() -> None:
    policy = policy_with(encoder="plain")
    with pytest.raises(BrokenNetworkError, match=r"policy.encoder=plain .*: RuntimeError"):
        policy.distribution(Inputs({"vector": torch.zeros(2, 3)}))


@needs_numpy_engine
@pytest.mark.parametrize("settings", OWN)
def test_only_torch_runs_own_networks(settings: dict[str, Any]) -> None:
    assert make_engine(policy_with(**settings)).name == "torch"
    with pytest.raises(ConfigError, match=r"policy.engine=numpy: .*cannot evaluate policy\."):
        make_engine(policy_with(engine="numpy", **settings))


def test_fisher_products_need_no_forward_mode() -> None:
    rlkl.register_encoder("sines")(Sines)
    images = []
    for own in (True, False):
        policy = policy_with(encoder="sines", encoder_kwargs={"own": own}, engine="torch")
        batch = batch_for(policy, "categorical", 32)
        vector = torch.linspace(-1, 1, len(policy.actor_parameters.vector))
        images.append(TorchEngine(policy).fisher_product(batch, 0.1)(vector))
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-6)


def test_hidden_second_derivatives_are_refused() -> None:
    rlkl.register_encoder("sines")(Sines)
    policy = policy_with(encoder="sines", encoder_kwargs={"own": True}, memory="gru", memory_size=4)
    batch = batch_for(policy, "gru", 32)
    vector = torch.ones(len(policy.actor_parameters.vector))
    with pytest.raises(BrokenNetworkError, match=r"policy.encoder=sines .* jvp"):
        TorchEngine(policy).fisher_product(batch, 0.1)(vector)


def test_frozen_parameters_stay() -> None:
    def frozen(shapes: Any) -> nn.Module:
        made = Plain(shapes)
        made.layer.weight.requires_grad_(False)
        return made

    rlkl.register_encoder("frozen")(frozen)
    policy = policy_with(encoder="frozen")
    weight = policy.actor.encoder.module.layer.weight  # type: ignore[union-attr]
    before = weight.clone()  # type: ignore[operator]
    optimizer_of("trpo", policy).update(batch_for(policy, "categorical", 64), 0.0)
    assert torch.equal(before, weight)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"encoder": "plane"}, "did you mean plain"),
        ({"encoder": "plain", "encoder_hidden_sizes": [4]}, "leave one of them out"),
        ({"encoder_kwargs": {"width": 3}}, "changes nothing without policy.encoder=NAME"),
        ({"module": "os"}, "none of its networks is used"),
        ({"actor_critic": "pair", "memory": "gru"}, "register an encoder instead"),
        ({"actor_critic": "pair", "share_encoder": True}, "leave one of them out"),
    ],
)
def test_useless_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace(".", r"\.")):
        policy_with(**settings)


def test_one_name_registers_one_class() -> None:
    rlkl.register_encoder("plain")(Plain)
    with pytest.raises(ConfigError, match="expected a name of letters, digits and _"):
        rlkl.register_encoder("a-b")
    with pytest.raises(ConfigError, match="has this name already"):
        rlkl.register_encoder("plain")(Pair)


PARTS = Dict({"a": Box(-1, 1, (2,)), "b": Discrete(2), "c": Box(-1, 1, (1,))})


@pytest.mark.parametrize(
    "settings", [*({"engine": engine} for engine in ENGINES), {"encoder": "plain"}, OWN[3]]
)
def test_actor_and_critic_see_their_parts(settings: dict[str, Any]) -> None:
    keys = {"actor_observation_keys": ["a", "c"], "critic_observation_keys": ["b"]}
    evaluated = make_engine(policy_with(PARTS, **keys, **settings))
    assert evaluated.name == settings.get("engine", "torch")
    base = torch.tensor([[0.1, 0.2, 1.0, 0.0, 0.3]])
    seen = []
    for column in range(5):
        changed = base.clone()
        changed[0, column] += 1
        rows = Inputs({"vector": torch.cat((base, changed))})
        logits, values = evaluated.distribution(rows).parameters, evaluated.values(rows)
        differ = (not torch.allclose(part[0], part[1], atol=1e-6) for part in (logits, values))
        seen.append(tuple(differ))
    assert seen == [(True, False), (True, False), (False, True), (False, True), (True, False)]


@needs_numpy_engine
def test_engines_agree_on_parts_of_observations() -> None:
    keys = {"actor_observation_keys": ["c", "a"], "critic_observation_keys": ["b", "c"]}
    for actions in (Discrete(3), Box(-1, 1, (2,))):
        made = [policy_with(PARTS, actions, engine=e, **keys) for e in ("numpy", "torch")]
        engines = [make_engine(policy) for policy in made]
        vectors = torch.randn(8, 5, generator=Generator().manual_seed(0))
        noise = engines[0].policy.noise(1, 8, Generator().manual_seed(0))
        seen, states = {"vector": vectors.numpy()}, torch.zeros(8, 0)
        acted = [engine.act(noise)(0, seen, states)[0] for engine in engines]
        torch.testing.assert_close(*map(torch.as_tensor, acted))


def test_unknown_part_is_named() -> None:
    with pytest.raises(ConfigError, match=r"critic_observation_keys: .* 'd'; expected a, b, c"):
        policy_with(PARTS, critic_observation_keys=["d"])

"""What people type who know other libraries, and rlkl's own names for it."""

import difflib
import re
from collections.abc import Collection, Mapping

_LEARNING_RATES = ("algo.learning_rate", "critic.learning_rate")
_SHARED = "policy.shared_value_coefficient"
_SIZES = ("policy.actor_hidden_sizes", "policy.critic_hidden_sizes")

_KEYS: dict[str, tuple[str, ...]] = {
    "lr step_size learningrate": _LEARNING_RATES,
    "vf_lr value_lr critic_lr": ("critic.learning_rate",),
    "n_steps num_steps nsteps horizon steps_per_epoch rollout_length": ("rollout_steps",),
    "n_envs num_envs nenvs num_workers n_workers num_env": ("env.num_envs",),
    "ent_coef entropy_coef entropy_coeff ent_weight": ("algo.entropy_coefficient",),
    "clip_range clip_coef clip_param clip clip_eps clip_epsilon cliprange epsilon": (
        "algo.clip_ratio",
    ),
    "vf_coef value_coef vf_loss_coeff": (_SHARED, "critic.learning_rate"),
    "clip_range_vf clip_vloss vf_clip": ("critic.value_clip",),
    "total_timesteps timesteps steps total_steps num_timesteps max_steps frames": (
        "total_env_steps",
    ),
    "batch_size minibatch_size mini_batch_size n_minibatches num_mini_batch nminibatches": (
        "algo.num_minibatches", "critic.num_minibatches",
    ),
    "n_epochs epochs update_epochs ppo_epoch k_epochs num_sgd_iter": (
        "algo.num_epochs", "critic.num_epochs",
    ),
    "lambda lam lambda_ gae": ("gae_lambda",),
    "discount discount_factor": ("gamma",),
    "env_id env_name id name environment gym_id": ("env.id",),
    "net_arch hidden_sizes hidden_dim hidden_size hidden layers": _SIZES,
    "activation_fn": ("policy.activation",),
    "delta trust_region kl_bound max_kl_step": ("algo.max_kl",),
    "kl_target d_targ": ("algo.target_kl",),
    "beta kl_coef kl_coeff": ("algo.kl_coefficient",),
    "damping": ("algo.cg_damping",),
    "cg_max_steps cg_iters": ("algo.cg_iterations",),
    "max_norm grad_clip clip_grad": ("algo.max_grad_norm", "critic.max_grad_norm"),
    "normalize_advantage norm_adv": ("algo.advantage_standardization",),
    "norm_obs obs_norm normalize normalize_obs": ("normalize_observations",),
    "norm_reward normalize_reward normalize_rewards": ("scale_rewards",),
    "anneal_lr": ("anneal",),
    "eps adam_eps": ("algo.adam_epsilon", "critic.adam_epsilon"),
    "log_std_init": ("policy.log_std",),
    "frame_stack n_stack framestack": ("env.frame_stack",),
    "eval_freq evaluation_interval": ("eval_interval",),
    "n_eval_episodes": ("eval_episodes",),
    "log_dir logdir output output_dir save_dir outdir tensorboard_log": ("run_dir",),
    "num_threads torch_threads": ("threads",),
    "cuda gpu": ("device",),
    "lstm gru recurrent": ("policy.memory",),
    "verbose progress_bar": ("logger.progress",),
}  # fmt: skip
"""Names of SB3, CleanRL, Spinning Up, RLlib and papers, and the keys that say the same here."""

_ADDED = {
    "algo.num_minibatches": "the number of minibatches, not their size",
    _SHARED: "where the encoder is shared",
}
"""What has to be said about a key that does not mean quite what the other library's does."""

_OPTIONS = {
    "algo": {
        "ppo ppo2 ppoclip clip": "ppo_clip",
        "pg vpg a2c reinforce policy_gradient actor_critic": "vanilla_pg",
        "natural_gradient natural_pg natural": "npg",
        "ppo_penalty ppo_adaptive": "ppo_kl",
    },
    "policy": {"mlppolicy cnnpolicy multiinputpolicy": "mlp", "mlplstmpolicy recurrent": "lstm"},
    "logger": {"none off": "quiet"},
}


def _looked_up(word: str, table: Mapping[str, object]) -> object:
    word = word.lower().replace("-", "_")
    return next((found for words, found in table.items() if word in words.split()), None)


def suggest_key(typed: str, keys: Collection[str]) -> str:
    """Return ` (did you mean ...?)` for a key that there is not, or an empty string.

    What other libraries call it goes before what looks like it, and keys of the part that was typed
    before others.

    Args:
        typed: such as `algo.lr`.
        keys: those that there are.
    """
    part, _, name = typed.rpartition(".")
    known = _looked_up(name, _KEYS)
    found = [key for key in known if key in keys] if isinstance(known, tuple) else []
    found = found or [key for key in keys if key.rpartition(".")[2] == name.lower()]
    found = _within(part, found) or _alike(name, _within(part, keys)) or found
    found = found or _alike(name, keys)
    if not found:
        return ""
    told = [f"{key} ({_ADDED[key]})" if key in _ADDED else key for key in sorted(found)]
    return f" (did you mean {' or '.join(told)}?)"


def _within(part: str, keys: Collection[str]) -> list[str]:
    return [key for key in keys if not part or key.startswith(f"{part}.")]


def _alike(name: str, keys: Collection[str]) -> list[str]:
    """Return the keys whose last parts look like a name, the likest first."""
    lasts: dict[str, list[str]] = {}
    for key in sorted(keys):
        lasts.setdefault(key.rpartition(".")[2].lower(), []).append(key)
    close = difflib.get_close_matches(name.lower(), lasts, n=3, cutoff=0.6)
    return [key for last in close for key in lasts[last]][:3]


def suggest_option(group: str, typed: str, options: Collection[str], ids: Mapping[str, str]) -> str:
    """Return ` (did you mean ...?)` for an option that a group does not have, or an empty string.

    Args:
        group: such as `algo`.
        typed: the option.
        options: those that there are.
        ids: option of the group `env` to the id of its environment.
    """
    found = _looked_up(typed, _OPTIONS.get(group, {}))
    if isinstance(found, str) and found in options:
        return f" (did you mean {found}?)"
    if group == "env" and (re.search(r"-v\d+$", typed) or ":" in typed or typed in ids.values()):
        stem = re.sub(r"-v\d+$", "", typed).lower()
        same = [name for name, env_id in ids.items() if _plain(env_id) == stem.rpartition("/")[2]]
        instead = f"env={same[0]}, or " if same else ""
        return f" (did you mean {instead}env.id={typed}?)"
    by_lower_case = {name.lower(): name for name in options}
    word = typed.lower()
    close = [word] if word in by_lower_case else difflib.get_close_matches(word, by_lower_case, 2)
    return f" (did you mean {' or '.join(by_lower_case[name] for name in close)}?)" if close else ""


def _plain(env_id: str) -> str:
    """Return an id without namespace and version, in lower case."""
    return re.sub(r"-v\d+$", "", env_id.rpartition("/")[2]).lower()

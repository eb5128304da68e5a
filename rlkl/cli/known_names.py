"""Names of settings in other libraries, with the keys of rlkl that correspond to them."""

from typing import NamedTuple


class Counterpart(NamedTuple):
    """What corresponds to names of Stable-Baselines3, CleanRL, rsl_rl, Tianshou and others.

    Attributes:
        names: in lower case, separated by spaces.
        keys: of rlkl, separated by spaces; empty if nothing corresponds.
        remark: what differs, or what to use instead.
    """

    names: str
    keys: str
    remark: str = ""


_EPOCHS = "algo.num_epochs critic.num_epochs"
_MINIBATCHES = "algo.num_minibatches critic.num_minibatches"
_HIDDEN = "policy.actor_hidden_sizes policy.critic_hidden_sizes"

# fmt: off
COUNTERPARTS: dict[str, tuple[Counterpart, ...]] = {
    "Budget and rollouts": (
        Counterpart("total_timesteps total_steps num_timesteps timesteps steps max_steps frames",
                    "total_env_steps"),
        Counterpart("max_iterations num_iterations num_learning_iterations iterations num_updates",
                    "total_env_steps",
                    "environment steps: iterations × rollout_steps × env.num_envs"),
        Counterpart("n_steps num_steps nsteps num_steps_per_env horizon rollout_length",
                    "rollout_steps", "steps of each sub-environment in an iteration"),
        Counterpart("steps_per_epoch step_per_collect timesteps_per_batch train_batch_size",
                    "rollout_steps", "per sub-environment: divide by env.num_envs"),
        Counterpart("n_envs num_envs nenvs num_env num_workers n_workers training_num",
                    "env.num_envs"),
        Counterpart("buffer_size", "rollout_steps",
                    "the batch has rollout_steps × env.num_envs steps"),
    ),
    "Optimization": (
        Counterpart("lr learning_rate learningrate step_size",
                    "algo.learning_rate critic.learning_rate"),
        Counterpart("pi_lr policy_lr actor_lr", "algo.learning_rate"),
        Counterpart("vf_lr value_lr critic_lr", "critic.learning_rate"),
        Counterpart("anneal_lr lr_decay", "anneal",
                    "with algo.learning_rate_schedule=linear, which is the default"),
        Counterpart("lr_schedule schedule",
                    "algo.learning_rate_schedule critic.learning_rate_schedule",
                    "constant or linear"),
        Counterpart("n_epochs update_epochs num_learning_epochs ppo_epoch ppo_epochs k_epochs "
                    "num_sgd_iter noptepochs repeat_per_collect", _EPOCHS),
        Counterpart("epochs epoch max_epoch", _EPOCHS,
                    "passes over the batch; total_env_steps sets the number of iterations"),
        Counterpart("train_pi_iters", "algo.num_epochs", "with algo.num_minibatches=1"),
        Counterpart("train_v_iters vf_iters n_critic_updates optim_critic_iters",
                    "critic.num_epochs", "passes over the batch"),
        Counterpart("batch_size minibatch_size mini_batch_size sgd_minibatch_size", _MINIBATCHES,
                    "the number of minibatches in a pass over the batch"),
        Counterpart("num_mini_batches num_mini_batch num_minibatches n_minibatches nminibatches",
                    _MINIBATCHES),
        Counterpart("max_grad_norm max_norm grad_clip clip_grad",
                    "algo.max_grad_norm critic.max_grad_norm"),
        Counterpart("eps adam_eps", "algo.adam_epsilon critic.adam_epsilon"),
        Counterpart("optimizer optimizer_class optimizer_kwargs", "", "the optimizer is Adam"),
        Counterpart("weight_decay", "", "there is no weight decay"),
    ),
    "Objective and advantages": (
        Counterpart("gamma discount discount_factor", "gamma"),
        Counterpart("gae_lambda lambda lambda_ lam gae", "gae_lambda"),
        Counterpart("ent_coef entropy_coef entropy_coeff ent_weight", "algo.entropy_coefficient"),
        Counterpart("vf_coef value_coef value_loss_coef vf_loss_coeff",
                    "policy.shared_value_coefficient",
                    "used only where the encoder is shared; otherwise the critic has its own "
                    "optimizer, with critic.learning_rate"),
        Counterpart("normalize_advantage norm_adv advantage_normalization",
                    "algo.advantage_standardization", "batch, minibatch or none"),
        Counterpart("normalize_advantage_per_mini_batch", "algo.advantage_standardization",
                    "minibatch"),
        Counterpart("recompute_advantage recompute_adv", "",
                    "advantages are computed once per iteration"),
    ),
    "PPO": (
        Counterpart("clip_range clip_coef clip_param eps_clip clip clip_eps clip_epsilon cliprange "
                    "epsilon", "algo.clip_ratio", "with algo=ppo_clip"),
        Counterpart("clip_range_vf clip_vloss use_clipped_value_loss value_clip vf_clip "
                    "vf_clip_param", "critic.value_clip", "a distance, or null for no clip"),
        Counterpart("target_kl kl_target d_targ", "algo.target_kl",
                    "with algo=ppo_clip or ppo_kl; the bound of trpo and npg is algo.max_kl"),
        Counterpart("desired_kl", "algo.target_kl",
                    "with algo=ppo_kl: its penalty adapts to it, not the learning rate"),
        Counterpart("beta kl_coef kl_coeff", "algo.kl_coefficient",
                    "with algo=ppo_kl or ppo_kl_fixed"),
        Counterpart("dual_clip", "", "there is no dual clip"),
    ),
    "TRPO and NPG": (
        Counterpart("delta max_kl max_kl_step trust_region kl_bound", "algo.max_kl",
                    "with algo=trpo or npg"),
        Counterpart("cg_max_steps cg_iters", "algo.cg_iterations"),
        Counterpart("cg_damping damping damping_coeff", "algo.cg_damping"),
        Counterpart("line_search_max_iter backtrack_iters max_backtracks", "algo.max_backtracks",
                    "not counting the full step"),
        Counterpart("line_search_shrinking_factor backtrack_coeff backtrack_ratio",
                    "algo.line_search_decay"),
        Counterpart("sub_sampling_factor", "algo.fisher_fraction",
                    "a share of the batch: 1 / sub_sampling_factor"),
    ),
    "Networks and action distribution": (
        Counterpart("policy_kwargs", f"{_HIDDEN} policy.activation policy.log_std",
                    "a key for each"),
        Counterpart("net_arch hidden_sizes hidden_dim hidden_size hidden layers", _HIDDEN),
        Counterpart("actor_hidden_dims", "policy.actor_hidden_sizes"),
        Counterpart("critic_hidden_dims", "policy.critic_hidden_sizes"),
        Counterpart("activation activation_fn", "policy.activation"),
        Counterpart("ortho_init", "policy.initialization", "orthogonal or uniform"),
        Counterpart("log_std_init", "policy.log_std"),
        Counterpart("init_noise_std", "policy.log_std", "the logarithm of the standard deviation"),
        Counterpart("squash_output tanh_squash", "policy.box_distribution", "tanh_gaussian"),
        Counterpart("action_bound_method bound_action_method", "policy.box_distribution",
                    "gaussian clips, tanh_gaussian squashes"),
        Counterpart("action_scaling", "policy.scale_actions"),
        Counterpart("use_sde sde_sample_freq", "",
                    "there is no state-dependent exploration noise; "
                    "policy.state_dependent_std=true makes its standard deviation depend on "
                    "the state"),
        Counterpart("features_extractor features_extractor_class", "policy.image_encoder"),
        Counterpart("features_dim", "policy.image_features"),
        Counterpart("share_features_extractor", "policy.share_encoder"),
        Counterpart("lstm gru recurrent use_lstm rnn_type", "policy.memory", "none, gru or lstm"),
        Counterpart("lstm_hidden_size rnn_hidden_size rnn_hidden_dim", "policy.memory_size"),
        Counterpart("n_lstm_layers rnn_num_layers", "", "a memory has one layer"),
    ),
    "Environments": (
        Counterpart("env_id env_name environment gym_id task id name", "env.id"),
        Counterpart("env_kwargs", "env.kwargs", "as env.kwargs.KEY=VALUE"),
        Counterpart("vec_env_cls vectorization_mode", "env.backend"),
        Counterpart("n_stack frame_stack framestack frames_stack", "env.frame_stack"),
        Counterpart("norm_obs obs_norm normalize normalize_obs empirical_normalization",
                    "normalize_observations"),
        Counterpart("norm_reward normalize_reward normalize_rewards rew_norm reward_normalization",
                    "scale_rewards", "by the standard deviation of the discounted return"),
        Counterpart("clip_reward reward_clip", "clip_rewards"),
    ),
    "Runs, evaluation and logging": (
        Counterpart("log_dir logdir output output_dir save_dir outdir tensorboard_log",
                    "run_dir"),
        Counterpart("exp_name experiment_name run_name", "run_dir", "for a grid: grid=NAME"),
        Counterpart("eval_freq evaluation_interval", "eval_interval", "in iterations"),
        Counterpart("n_eval_episodes test_num episode_per_test", "eval_episodes"),
        Counterpart("save_freq save_interval", "checkpoint.interval", "in iterations"),
        Counterpart("save_model", "", "every run saves checkpoints"),
        Counterpart("verbose progress_bar", "logger.progress", "auto, live, plain or none"),
        Counterpart("stats_window_size", "", "returns are averaged over the last 100 episodes"),
        Counterpart("track wandb wandb_project_name use_wandb", "",
                    "runs log to TensorBoard and CSV files"),
        Counterpart("capture_video record_video", "",
                    "rlkl watch RUN_DIR --video FILE records a trained policy"),
        Counterpart("cuda gpu use_cuda", "device", "such as device=cuda"),
        Counterpart("num_threads torch_threads", "threads"),
    ),
}
# fmt: on
"""By topic; `docs/names.md` has the same rows."""

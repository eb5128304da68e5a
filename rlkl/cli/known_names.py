"""Names of settings in other libraries, with the keys of rlkl that correspond to them."""

from typing import NamedTuple


class Counterpart(NamedTuple):
    """What corresponds to names of Stable-Baselines3, CleanRL, rsl_rl, Tianshou and others."""

    names: str  # in lower case, separated by spaces
    keys: str  # of rlkl, separated by spaces; empty if nothing corresponds
    remark: str = ""  # what differs, or what to use instead


_EPOCHS = "algo.num_epochs critic.num_epochs"
_MINIBATCHES = "algo.num_minibatches critic.num_minibatches"
_HIDDEN = "policy.actor_hidden_sizes policy.critic_hidden_sizes"

# fmt: off
_ROWS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Budget and rollouts": (
        ("total_timesteps total_steps num_timesteps timesteps steps max_steps frames",
         "total_env_steps"),
        ("max_iterations num_iterations num_learning_iterations iterations num_updates",
         "total_env_steps", "environment steps: iterations × rollout_steps × env.num_envs"),
        ("n_steps num_steps nsteps num_steps_per_env horizon rollout_length", "rollout_steps",
         "steps of each sub-environment in an iteration"),
        ("steps_per_epoch step_per_collect timesteps_per_batch train_batch_size", "rollout_steps",
         "per sub-environment: divide by env.num_envs"),
        ("n_envs num_envs nenvs num_env num_workers n_workers training_num", "env.num_envs"),
        ("buffer_size", "rollout_steps", "the batch has rollout_steps × env.num_envs steps"),
    ),
    "Optimization": (
        ("lr learning_rate learningrate step_size", "algo.learning_rate critic.learning_rate"),
        ("pi_lr policy_lr actor_lr", "algo.learning_rate"),
        ("vf_lr value_lr critic_lr", "critic.learning_rate"),
        ("anneal_lr lr_decay", "anneal",
         "with algo.learning_rate_schedule=linear, which is the default"),
        ("lr_schedule schedule", "algo.learning_rate_schedule critic.learning_rate_schedule",
         "constant or linear, in Python also a function"),
        ("lr_warmup warmup warmup_ratio warmup_fraction warmup_steps",
         "algo.learning_rate_warmup critic.learning_rate_warmup",
         "a share of the training budget"),
        ("n_epochs update_epochs num_learning_epochs ppo_epoch ppo_epochs k_epochs num_sgd_iter "
         "noptepochs repeat_per_collect", _EPOCHS),
        ("epochs epoch max_epoch", _EPOCHS,
         "passes over the batch; total_env_steps sets the number of iterations"),
        ("train_pi_iters", "algo.num_epochs", "with algo.num_minibatches=1"),
        ("train_v_iters vf_iters n_critic_updates optim_critic_iters", "critic.num_epochs",
         "passes over the batch"),
        ("batch_size minibatch_size mini_batch_size sgd_minibatch_size", _MINIBATCHES,
         "the number of minibatches in a pass over the batch"),
        ("num_mini_batches num_mini_batch num_minibatches n_minibatches nminibatches",
         _MINIBATCHES),
        ("max_grad_norm max_norm grad_clip clip_grad", "algo.max_grad_norm critic.max_grad_norm"),
        ("eps adam_eps", "algo.adam_epsilon critic.adam_epsilon"),
        ("betas adam_betas optim_betas", "algo.adam_beta1 algo.adam_beta2",
         "a key for each, of algo and of critic"),
        ("beta1 adam_beta1 adam_b1", "algo.adam_beta1 critic.adam_beta1"),
        ("beta2 adam_beta2 adam_b2", "algo.adam_beta2 critic.adam_beta2"),
        ("weight_decay adam_weight_decay", "algo.weight_decay critic.weight_decay",
         "decoupled, as in AdamW"),
        ("optimizer optimizer_class optimizer_kwargs", "", "the optimizer is Adam"),
    ),
    "Objective and advantages": (
        ("normalize_value value_normalization use_valuenorm use_popart value_norm",
         "critic.normalize_values", "the output layer is rescaled as in Pop-Art"),
        ("value_loss vf_loss critic_loss use_huber_loss", "critic.loss", "mse or huber"),
        ("huber_delta", "critic.huber_delta", "with critic.loss=huber"),
        ("gamma discount discount_factor", "gamma"),
        ("gae_lambda lambda lambda_ lam gae", "gae_lambda"),
        ("ent_coef entropy_coef entropy_coeff ent_weight", "algo.entropy_coefficient"),
        ("ent_coef_schedule entropy_coeff_schedule anneal_ent_coef ent_coef_decay",
         "algo.entropy_coefficient_schedule", "constant or linear"),
        ("vf_coef value_coef value_loss_coef vf_loss_coeff", "policy.shared_value_coefficient",
         "used only where the encoder is shared; otherwise the critic has its own optimizer, "
         "with critic.learning_rate"),
        ("normalize_advantage norm_adv advantage_normalization", "algo.advantage_standardization",
         "batch, minibatch or none"),
        ("normalize_advantage_per_mini_batch", "algo.advantage_standardization", "minibatch"),
        ("recompute_advantage recompute_adv", "algo.recompute_advantages"),
    ),
    "PPO": (
        ("clip_range clip_coef clip_param eps_clip clip clip_eps clip_epsilon cliprange epsilon",
         "algo.clip_ratio",
         "with algo=ppo_clip or klip_ppo; with algo=spo it is algo.ratio_bound"),
        ("clip_range_vf clip_vloss use_clipped_value_loss value_clip vf_clip vf_clip_param",
         "critic.value_clip", "a distance, or null for no clip"),
        ("target_kl kl_target d_targ", "algo.target_kl",
         "with algo=ppo_clip or ppo_kl; the bound of trpo and npg is algo.max_kl"),
        ("desired_kl kl_threshold", "algo.target_kl",
         "with algo=ppo_kl_lr, whose learning rate follows it"),
        ("beta kl_coef kl_coeff", "algo.kl_coefficient", "with algo=ppo_kl or ppo_kl_fixed"),
        ("dual_clip", "algo.dual_clip", "with algo=ppo_clip"),
        ("max_ratio_delta", "algo.target_ratio_deviation", "with algo=ppo_clip"),
    ),
    "TRPO and NPG": (
        ("delta max_kl max_kl_step trust_region kl_bound", "algo.max_kl", "with algo=trpo or npg"),
        ("cg_max_steps cg_iters", "algo.cg_iterations"),
        ("cg_damping damping damping_coeff", "algo.cg_damping"),
        ("line_search_max_iter backtrack_iters max_backtracks", "algo.max_backtracks",
         "not counting the full step"),
        ("line_search_shrinking_factor backtrack_coeff backtrack_ratio", "algo.line_search_decay"),
        ("sub_sampling_factor", "algo.fisher_fraction",
         "a share of the batch: 1 / sub_sampling_factor"),
    ),
    "Networks and action distribution": (
        ("policy_kwargs", f"{_HIDDEN} policy.activation policy.log_std", "a key for each"),
        ("net_arch hidden_sizes hidden_dim hidden_size hidden layers", _HIDDEN),
        ("actor_hidden_dims", "policy.actor_hidden_sizes"),
        ("critic_hidden_dims", "policy.critic_hidden_sizes"),
        ("activation activation_fn", "policy.activation"),
        ("layer_norm layernorm use_layer_norm", "policy.actor_layer_norm policy.critic_layer_norm"),
        ("ortho_init", "policy.initialization", "orthogonal or uniform"),
        ("log_std_init", "policy.log_std"),
        ("init_noise_std", "policy.log_std", "the logarithm of the standard deviation"),
        ("squash_output tanh_squash", "policy.box_distribution", "tanh_gaussian"),
        ("action_bound_method bound_action_method", "policy.box_distribution",
         "gaussian clips, tanh_gaussian squashes, beta stays within the bounds"),
        ("action_scaling", "policy.scale_actions"),
        ("use_sde sde_sample_freq", "", "there is no state-dependent exploration noise; "
         "policy.state_dependent_std=true makes its standard deviation depend on the state"),
        ("features_extractor features_extractor_class", "policy.encoder policy.image_encoder",
         "the name of your own network, or one of rlkl's for images"),
        ("features_dim", "policy.image_features"),
        ("share_features_extractor", "policy.share_encoder"),
        ("lstm gru recurrent use_lstm rnn_type", "policy.memory", "none, gru or lstm"),
        ("lstm_hidden_size rnn_hidden_size rnn_hidden_dim", "policy.memory_size"),
        ("n_lstm_layers rnn_num_layers", "", "a memory has one layer"),
    ),
    "Environments": (
        ("env_id env_name environment gym_id task id name", "env.id"),
        ("env_kwargs", "env.kwargs", "as env.kwargs.KEY=VALUE"),
        ("vec_env_cls vectorization_mode", "env.backend"),
        ("n_stack frame_stack framestack frames_stack", "env.frame_stack"),
        ("norm_obs obs_norm normalize normalize_obs empirical_normalization",
         "normalize_observations"),
        ("norm_reward normalize_reward normalize_rewards rew_norm reward_normalization",
         "scale_rewards", "by the standard deviation of the discounted return"),
        ("clip_obs obs_clip clip_observation", "clip_observations"),
        ("clip_reward reward_clip", "clip_rewards"),
    ),
    "Runs, evaluation and logging": (
        ("log_dir logdir output output_dir save_dir outdir tensorboard_log", "run_dir"),
        ("exp_name experiment_name run_name", "run_dir", "for a grid: grid=NAME"),
        ("eval_freq evaluation_interval", "eval_interval", "in iterations"),
        ("n_eval_episodes test_num episode_per_test", "eval_episodes"),
        ("save_freq save_interval", "checkpoint.interval", "in iterations"),
        ("save_model", "", "every run saves checkpoints"),
        ("verbose progress_bar", "logger.progress", "auto, live, plain or none"),
        ("stats_window_size", "", "returns are averaged over the last 100 episodes"),
        ("track wandb use_wandb", "logger.tracker", "wandb, mlflow or trackio"),
        ("wandb_project_name", "logger.project", "with logger=wandb"),
        ("capture_video record_video", "logger.video_interval",
         "in iterations; rlkl watch RUN_DIR --video FILE records a trained policy"),
        ("cuda gpu use_cuda", "device", "such as device=cuda"),
        ("num_threads torch_threads", "threads"),
    ),
}
# fmt: on

COUNTERPARTS = {topic: [Counterpart(*row) for row in rows] for topic, rows in _ROWS.items()}
"""By topic; `docs/names.md` has the same rows."""

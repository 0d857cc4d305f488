"""Training many policies at once."""

from pgx_jax.learn.checks import check_form, check_learner, check_memory
from pgx_jax.learn.cloning import Cloned, Demonstrations, check_demonstrable, clone, demonstrate
from pgx_jax.learn.collecting import collect
from pgx_jax.learn.engine import ENGINES
from pgx_jax.learn.evaluation import Evaluation, adapted, evaluate
from pgx_jax.learn.learner import LEARNERS, Learner, learners_by_name, with_options
from pgx_jax.learn.maml import MAML
from pgx_jax.learn.networks import NETWORKS
from pgx_jax.learn.objectives import relabels
from pgx_jax.learn.policy import (
    Policy,
    PolicyConfig,
    check_agent,
    check_networks,
    explore_afresh,
    make_policy,
    policies_by_name,
    policy_params,
    tell,
    with_policy_params,
)
from pgx_jax.learn.ppo import PPO
from pgx_jax.learn.rl2 import RL2
from pgx_jax.learn.taskwise import Taskwise
from pgx_jax.learn.together import give_way
from pgx_jax.learn.training import (
    Trained,
    can_be_told,
    init_agents,
    lanes_of,
    rehearsable,
    rehearse_training,
    side_by_side,
    time_update,
    train,
    train_all,
)
from pgx_jax.learn.trying import Tried, try_out
from pgx_jax.learn.work import Checkpoint, Hears, Metrics, Progress, described, stack, take

__all__ = [
    "ENGINES",
    "LEARNERS",
    "MAML",
    "NETWORKS",
    "PPO",
    "RL2",
    "Checkpoint",
    "Cloned",
    "Demonstrations",
    "Evaluation",
    "Hears",
    "Learner",
    "Metrics",
    "Policy",
    "PolicyConfig",
    "Progress",
    "Taskwise",
    "Trained",
    "Tried",
    "adapted",
    "can_be_told",
    "check_agent",
    "check_demonstrable",
    "check_form",
    "check_learner",
    "check_memory",
    "check_networks",
    "clone",
    "collect",
    "demonstrate",
    "described",
    "evaluate",
    "explore_afresh",
    "give_way",
    "init_agents",
    "lanes_of",
    "learners_by_name",
    "make_policy",
    "policies_by_name",
    "policy_params",
    "rehearsable",
    "rehearse_training",
    "relabels",
    "side_by_side",
    "stack",
    "take",
    "tell",
    "time_update",
    "train",
    "train_all",
    "try_out",
    "with_options",
    "with_policy_params",
]

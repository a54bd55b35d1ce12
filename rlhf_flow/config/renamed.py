"""Modules of parts that were elsewhere before version 0.2: configurations of older runs and users name them."""

from __future__ import annotations

SCORERS = {
    "functions": ("rule", "rules", "comparison"),
    "human": ("human",),
    "llm": ("judge", "rubric"),
    "models": ("reward_model", "ensemble", "gpm", "preference_model"),
    "remote": ("remote",),
    "wrappers": ("cached", "simulated"),
}
MODULES = {  # old -> new
    "rlhf_flow.engine.idle": "rlhf_flow.engine.none",
    "rlhf_flow.engine.tabular": "rlhf_flow.games.engine",
    "rlhf_flow.engine.vllm": "rlhf_flow.engine.vllm.spec",
    "rlhf_flow.learner.reward": "rlhf_flow.learner.reward_model",
    "rlhf_flow.learner.tabular": "rlhf_flow.games.learner",
    "rlhf_flow.memory": "rlhf_flow.replay",
    "rlhf_flow.objective.gpm": "rlhf_flow.objective.general_preference",
    "rlhf_flow.objective.rating": "rlhf_flow.objective.rating_regression",
    "rlhf_flow.sampler.plan": "rlhf_flow.sampler.draws",
    "rlhf_flow.scorer.matrix": "rlhf_flow.games.scorer",
    "rlhf_flow.scorer.pooled": "rlhf_flow.scorer.models.vllm_pooling",
    **{
        f"rlhf_flow.scorer.{name}": f"rlhf_flow.scorer.{kind}.{name}"
        for kind, names in SCORERS.items()
        for name in names
    },
}

"""What an answer is worth."""

from rlhf_flow.scorer.cached import REGISTERED, Cached
from rlhf_flow.scorer.comparison import Comparison
from rlhf_flow.scorer.ensemble import Ensemble
from rlhf_flow.scorer.gpm import GPM
from rlhf_flow.scorer.human import Human
from rlhf_flow.scorer.judge import Judge
from rlhf_flow.scorer.pooled import Pooled
from rlhf_flow.scorer.preference_model import PreferenceModel
from rlhf_flow.scorer.recorded import Recorded
from rlhf_flow.scorer.remote import Remote
from rlhf_flow.scorer.reward_model import RewardModel
from rlhf_flow.scorer.rubric import Rubric
from rlhf_flow.scorer.rule import Rule
from rlhf_flow.scorer.rules import Rules
from rlhf_flow.scorer.simulated import Simulated

PARTS: dict[str, type] = {
    "rule": Rule,
    "rules": Rules,
    "reward_model": RewardModel,
    "ensemble": Ensemble,
    "pooled": Pooled,
    "comparison": Comparison,
    "preference_model": PreferenceModel,
    "gpm": GPM,
    "judge": Judge,
    "rubric": Rubric,
    "simulated": Simulated,
    "cached": Cached,
    "human": Human,
    "remote": Remote,
    "recorded": Recorded,
}
REGISTERED.update({part: name for name, part in PARTS.items()})

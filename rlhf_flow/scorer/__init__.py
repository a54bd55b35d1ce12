"""What an answer is worth."""

from rlhf_flow.scorer.functions.comparison import Comparison
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.functions.rules import Rules
from rlhf_flow.scorer.human.human import Human
from rlhf_flow.scorer.llm.judge import Judge
from rlhf_flow.scorer.llm.rubric import Rubric
from rlhf_flow.scorer.llm.self_judge import SelfJudge
from rlhf_flow.scorer.models.ensemble import Ensemble
from rlhf_flow.scorer.models.gpm import GPM
from rlhf_flow.scorer.models.preference_model import PreferenceModel
from rlhf_flow.scorer.models.reward_mixture import RewardMixture
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.scorer.models.vllm_pooling import Pooled
from rlhf_flow.scorer.none import NoScorer
from rlhf_flow.scorer.recorded import Recorded
from rlhf_flow.scorer.remote.remote import Remote
from rlhf_flow.scorer.wrappers.cached import REGISTERED, Cached
from rlhf_flow.scorer.wrappers.hindsight import Hindsight
from rlhf_flow.scorer.wrappers.simulated import Simulated

PARTS: dict[str, type] = {
    "rule": Rule,
    "rules": Rules,
    "reward_model": RewardModel,
    "ensemble": Ensemble,
    "pooled": Pooled,
    "comparison": Comparison,
    "preference_model": PreferenceModel,
    "gpm": GPM,
    "reward_mixture": RewardMixture,
    "judge": Judge,
    "rubric": Rubric,
    "self_judge": SelfJudge,
    "hindsight": Hindsight,
    "simulated": Simulated,
    "cached": Cached,
    "human": Human,
    "remote": Remote,
    "recorded": Recorded,
    "none": NoScorer,
}
REGISTERED.update({part: name for name, part in PARTS.items()})

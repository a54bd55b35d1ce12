from rlhf_flow.cluster.kept import Kept
from rlhf_flow.cluster.local import Local
from rlhf_flow.cluster.ray import Ray

PARTS: dict[str, type] = {"kept": Kept, "local": Local, "ray": Ray}

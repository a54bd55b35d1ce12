from rlhf_flow.cluster.local import Local
from rlhf_flow.cluster.ray import Ray

PARTS: dict[str, type] = {"local": Local, "ray": Ray}

from rlhf_flow.cluster.local import Local
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.cluster.ray_persistent import Kept

PARTS: dict[str, type] = {"kept": Kept, "local": Local, "ray": Ray}

from rlhf_flow.cluster.local import Local
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.cluster.ray_persistent import PersistentRay

PARTS: dict[str, type] = {"ray_persistent": PersistentRay, "local": Local, "ray": Ray}

"""scripts/launch/rayjob*.yaml: against the fields of KubeRay's ray.io/v1 and against the images that they name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from rlhf_flow.cli import main as program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts/launch"
JOB = {  # RayJobSpec of KubeRay 1.5
    "activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint", "jobId",
    "entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "managedBy", "metadata", "rayClusterSpec",
    "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig", "submitterPodTemplate",
    "suspend", "ttlSecondsAfterFinished",
}  # fmt: skip
CLUSTER = {  # RayClusterSpec
    "authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec",
    "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "upgradeStrategy", "workerGroupSpecs",
}  # fmt: skip
HEAD = {"enableIngress", "headService", "labels", "rayStartParams", "resources", "serviceType", "template"}
WORKER = {
    "groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams",
    "replicas", "resources", "scaleStrategy", "suspend", "template",
}  # fmt: skip
VARIANTS = [("rayjob.yaml", "Dockerfile", "cuda"), ("rayjob.cpu.yaml", "Dockerfile.cpu", "cpu")]


class Written:
    """What one file says, and about which image."""

    def __init__(self, file: str, image: str, lock: str) -> None:
        self.claim, self.job = yaml.safe_load_all((FOLDER / file).read_text())
        self.dockerfile = (ROOT / "docker" / image).read_text()
        self.lock, self.lock_file = lock, (ROOT / "requirements" / f"{lock}.txt").read_text()
        self.cluster = self.job["spec"]["rayClusterSpec"]
        self.head, self.groups = self.cluster["headGroupSpec"], self.cluster["workerGroupSpecs"]
        self.pods = [group["template"]["spec"] for group in (self.head, *self.groups)]
        self.containers = [container for pod in self.pods for container in pod["containers"]]


@pytest.fixture(params=VARIANTS, ids=[file for file, _, _ in VARIANTS])
def written(request: pytest.FixtureRequest) -> Written:
    return Written(*request.param)


def test_every_field_is_one_of_kuberays(written: Written) -> None:
    assert (written.job["apiVersion"], written.job["kind"]) == ("ray.io/v1", "RayJob")
    assert written.job["spec"].keys() <= JOB
    assert written.cluster.keys() <= CLUSTER
    assert written.head.keys() <= HEAD
    assert all(group.keys() <= WORKER for group in written.groups)


def test_options_of_ray_start_are_texts_that_ray_knows(written: Written) -> None:
    known = {"num-cpus", "num-gpus", "dashboard-host", "object-store-memory", "resources"}
    for group in (written.head, *written.groups):
        assert group["rayStartParams"].keys() <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_names_are_dns_labels(written: Written) -> None:
    names = [written.job["metadata"]["name"], written.claim["metadata"]["name"]]
    names += [container["name"] for container in written.containers] + [group["groupName"] for group in written.groups]
    assert [name for name in names if not re.fullmatch("[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", name)] == []
    assert len({container["name"] for container in written.containers}) == len(written.containers)


def test_volumes_and_mounts_match_and_the_claim_is_the_one_in_the_file(written: Written) -> None:
    for pod in written.pods:
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == set(volumes)
        claim = volumes["shared"]["persistentVolumeClaim"]["claimName"]
        assert claim == written.claim["metadata"]["name"]
    assert written.claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_run_and_hub_are_on_the_volume_that_all_pods_share(written: Written) -> None:
    assert " run_dir=/shared/" in written.job["spec"]["entrypoint"]
    for container in written.containers:
        assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
        assert {variable["name"]: variable["value"] for variable in container["env"]}["HF_HOME"].startswith("/shared/")


def test_all_pods_have_the_image_of_the_dockerfile_and_its_user(written: Written) -> None:
    images = {container["image"] for container in written.containers}
    assert [image.rsplit(":", 1)[1] for image in images] == [written.lock]
    assert f"--tag rlhf-flow:{written.lock} " in written.dockerfile
    assert f"requirements/{written.lock}.txt" in written.dockerfile
    for pod in written.pods:
        user, group = pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"]
        assert f"\nUSER {user}:{group}\n" in written.dockerfile
        assert pod["securityContext"]["runAsNonRoot"] is True


def test_ray_is_the_one_of_the_lock(written: Written) -> None:
    assert f"\nray=={written.cluster['rayVersion']} " in written.lock_file


def test_the_command_is_the_images_and_rlhf_flow_accepts_it(
    written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(written.job["spec"]["entrypoint"])
    assert f"ENTRYPOINT {words[:3]}".replace("'", '"') in written.dockerfile
    assert program.main([*words[3:], "--cfg", "job"]) == 0
    assert "run_dir: /shared/" in capsys.readouterr().out


def test_the_run_waits_for_the_head_and_all_workers(written: Written) -> None:
    replicas = sum(group["replicas"] for group in written.groups)
    assert f"cluster.nodes={1 + replicas}" in shlex.split(written.job["spec"]["entrypoint"])


def test_requests_are_within_limits_and_memory_holds_the_object_store(written: Written) -> None:
    for pod in written.pods:
        (container,) = pod["containers"]
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests.keys() == limits.keys()
        assert int(requests["cpu"]) <= int(limits["cpu"])
        assert requests["memory"] == limits["memory"]  # memory that is promised and not there kills the pod
        assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
        (shm,) = [volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "shm"]
        assert 2 * int(shm.removesuffix("Gi")) <= int(limits["memory"].removesuffix("Gi"))


def test_gpus_are_asked_for_by_the_workers_of_the_gpu_variant_alone(written: Written) -> None:
    asked = ["nvidia.com/gpu" in container["resources"]["limits"] for container in written.containers]
    assert asked == [False, written.lock == "cuda"]


def test_workers_with_gpus_have_rdma_devices_and_may_pin_memory(written: Written) -> None:
    for container in written.containers:
        on_gpus = "nvidia.com/gpu" in container["resources"]["limits"]
        devices = [name for name in container["resources"]["limits"] if name.startswith("rdma/")]
        capabilities = container["securityContext"]["capabilities"]
        assert len(devices) == on_gpus
        assert capabilities == {"drop": ["ALL"], **({"add": ["IPC_LOCK"]} if on_gpus else {})}


def test_probes_need_no_program_of_the_image(written: Written) -> None:
    for container in written.containers:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe].keys() >= {"httpGet", "periodSeconds"}


def test_keys_come_from_a_secret_and_nothing_in_the_file_is_one(written: Written) -> None:
    assert written.cluster["authOptions"] == {"mode": "token"}
    for container in written.containers:
        assert container["envFrom"] == [{"secretRef": {"name": "rlhf-flow-keys", "optional": True}}]
        named = [variable["name"] for variable in container["env"]]
        assert [name for name in named if re.search("KEY|TOKEN$|SECRET|PASSWORD", name)] == []


def test_a_cluster_that_fails_is_made_anew_and_none_stays(written: Written) -> None:
    assert written.job["spec"]["backoffLimit"] >= 1
    assert written.job["spec"]["shutdownAfterJobFinishes"] is True

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import kubernetes_validate
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field
from real_prometheus import DEPLOY

KUBERAY = DEPLOY / "kuberay"
VERSION = "1.31"
Document = dict[str, Any]


class Known(BaseModel):
    """Fields that we use of a custom resource, as its reference documents them; no others."""

    model_config = ConfigDict(extra="forbid")


class Metadata(Known):
    name: str = Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    namespace: Literal["sparsing"]
    labels: dict[str, str] = {}


class SecretKey(Known):
    name: str
    key: str


class Password(Known):
    valueFrom: dict[Literal["secretKeyRef"], SecretKey]


class FaultTolerance(Known):
    redisAddress: str
    redisPassword: Password


class Auth(Known):
    mode: Literal["token"]


class HeadGroup(Known):
    rayStartParams: dict[str, str]
    template: Document


class WorkerGroup(HeadGroup):
    groupName: str
    replicas: int
    minReplicas: int
    maxReplicas: int


class ClusterSpec(Known):
    rayVersion: str
    authOptions: Auth
    gcsFaultToleranceOptions: FaultTolerance
    headGroupSpec: HeadGroup
    workerGroupSpecs: list[WorkerGroup]


class JobSpec(Known):
    clusterSelector: dict[str, str]
    entrypoint: str
    entrypointNumCpus: float
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]
    submitterPodTemplate: Document


class Relabeling(Known):
    action: str = "replace"
    regex: str = ""
    sourceLabels: list[str] = []
    targetLabel: str = ""
    replacement: str = ""


class Endpoint(Known):
    port: str
    path: str = "/metrics"
    interval: str
    authorization: dict[Literal["credentials"], SecretKey] | None = None
    relabelings: list[Relabeling] = []


class MonitorSpec(Known):
    selector: dict[Literal["matchLabels"], dict[str, str]]
    podMetricsEndpoints: list[Endpoint]


CUSTOM = {
    ("ray.io/v1", "RayCluster"): ClusterSpec,
    ("ray.io/v1", "RayJob"): JobSpec,
    ("monitoring.coreos.com/v1", "PodMonitor"): MonitorSpec,
}


def documents() -> list[Document]:
    return [
        document
        for file in sorted(KUBERAY.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
    ]


def named(kind: str, name: str) -> Document:
    return next(d for d in documents() if (d["kind"], d["metadata"]["name"]) == (kind, name))


def templates(document: Any) -> list[Document]:
    """Every pod template in a document."""
    if isinstance(document, list):
        return [found for item in document for found in templates(item)]
    if not isinstance(document, dict):
        return []
    if "containers" in document.get("spec", {}):
        return [document]
    return [found for value in document.values() for found in templates(value)]


def check(document: Document) -> None:
    """Raise where a document fits no schema; pods in custom resources are checked as pods."""
    custom = CUSTOM.get((document["apiVersion"], document["kind"]))
    if custom is None:
        kubernetes_validate.validate(document, VERSION, strict=True)
        return
    Metadata.model_validate(document["metadata"])
    custom.model_validate(document["spec"])
    for template in templates(document):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}} | template
        kubernetes_validate.validate(pod, VERSION, strict=True)


IDS = [f"{d['kind']} {d['metadata']['name']}" for d in documents()]


@pytest.mark.parametrize("document", documents(), ids=IDS)
def test_every_manifest_fits_its_schema(document):
    check(document)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('cpu: "64", memory', "cpu: [64], memory"),
        ("mountPath: /tmp", "mountpath: /tmp"),
        ("minReplicas: 4", "minReplica: 4"),
        ('num-cpus: "0"', "num-cpus: 0"),
        ("runAsNonRoot: true", "runAsNonRoot: maybe"),
    ],
)
def test_the_schemas_tell_right_from_wrong(right, wrong):
    text = (KUBERAY / "cluster.yaml").read_text()
    assert right in text
    (document,) = yaml.safe_load_all(text.replace(right, wrong))
    with pytest.raises((ValueError, kubernetes_validate.ValidationError)):
        check(document)


@pytest.mark.parametrize("document", documents(), ids=IDS)
def test_pods_are_confined_and_say_what_they_need(document):
    for template in templates(document):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert not container["image"].endswith(":latest")
            assert ":" in container["image"]
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            made = {volume["name"] for volume in spec.get("volumes", [])} | {"data"}
            assert mounted <= made


def test_references_between_manifests_hold():
    cluster = named("RayCluster", "sparsing")["spec"]
    address = cluster["gcsFaultToleranceOptions"]["redisAddress"]
    host, _, port = address.partition(":")
    assert named("Service", host)["spec"]["ports"][0]["port"] == int(port)
    classes = {d["metadata"]["name"] for d in documents() if d["kind"] == "PriorityClass"}
    for template in templates(cluster):
        assert template["spec"]["priorityClassName"] in classes
    job = named("RayJob", "sparsing-quickstart")["spec"]
    assert job["clusterSelector"] == {"ray.io/cluster": "sparsing"}
    claims = set(re.findall(r"claimName: ([\w-]+)", (KUBERAY / "cluster.yaml").read_text()))
    assert claims == {named("PersistentVolumeClaim", "sparsing-store")["metadata"]["name"]}
    laws = named("Deployment", "sparsing-laws")["spec"]["template"]["metadata"]["labels"]
    monitor = named("PodMonitor", "sparsing-laws")["spec"]
    assert monitor["selector"]["matchLabels"] == laws
    pinned = re.search(r"^ray==(.+)$", (DEPLOY.parent / "requirements.txt").read_text(), re.M)
    assert pinned
    assert cluster["rayVersion"] == pinned[1]


def gibibytes(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|Ti)", text).groups()
    return float(number) * {"Mi": 2**-10, "Gi": 1, "Ti": 2**10}[unit]


@pytest.mark.parametrize("document", documents(), ids=IDS)
def test_what_is_in_memory_fits_the_limit(document):
    """A volume in memory counts against the container that fills it."""
    for template in templates(document):
        spec = template["spec"]
        in_memory = [v["emptyDir"] for v in spec.get("volumes", []) if "emptyDir" in v]
        sizes = [gibibytes(v["sizeLimit"]) for v in in_memory if v.get("medium") == "Memory"]
        for container in spec["containers"]:
            limit = gibibytes(container["resources"]["limits"]["memory"])
            assert sum(sizes) <= limit / 2


def test_budgets_and_policies_are_about_pods_that_there_are():
    """Labels of KubeRay's own pods are its to give; all others are in these files."""
    ours = [t.get("metadata", {}).get("labels", {}) for t in templates(documents())]
    ours += [{"ray.io/cluster": "sparsing", "ray.io/node-type": k} for k in ("head", "worker")]
    for document in documents():
        spec = document.get("spec", {})
        chosen = {"PodDisruptionBudget": "selector", "NetworkPolicy": "podSelector"}
        if key := chosen.get(document["kind"]):
            wanted = spec[key]["matchLabels"].items()
            assert any(wanted <= labels.items() for labels in ours), document["metadata"]["name"]


def test_a_job_is_submitted_and_not_run_by_a_driver_that_dies_with_the_head():
    words = named("RayJob", "sparsing-quickstart")["spec"]["entrypoint"].split()
    assert words[:2] == ["sparsing", "submit"]
    assert words[words.index("--code") + 1] == "image"
    laws = named("Deployment", "sparsing-laws")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert laws[:3] == ["sparsing", "serve", "--all"]


def test_nccl_is_set_as_on_bare_machines():
    lines = Path(DEPLOY / "nccl.sh").read_text()
    on_machines = dict(re.findall(r'^: "\$\{(\w+):=(.*)\}"$', lines, re.MULTILINE))
    assert named("ConfigMap", "sparsing-nccl")["data"] == on_machines
    exported = set(
        re.findall(r"\b[A-Z_]{6,}\b", " ".join(re.findall(r"^export (.*)$", lines, re.M)))
    )
    assert exported == set(on_machines)

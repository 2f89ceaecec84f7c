"""The manifests of infra/kuberay: valid as Kubernetes and KubeRay would have them, closed to others, and consistent."""

import os
import shlex
import tomllib
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import jsonschema  # type: ignore[import-untyped]
import pytest
import typer
import yaml
from manifest_schema import KUBERAY, changed, faults, kubernetes_definitions, leaves, strict_crd

from jobs.__main__ import app
from pipeline.monitor.collector import READ_SECONDS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kuberay"
KUBERAY_CRDS = os.environ.get("KUBERAY_CRDS")
LOCK = dict(line.split("==") for line in (ROOT / "infra" / "locks" / "cpu.lock").read_text().split())
# Objects whose keys are the user's.
FREE = {
    "rayStartParams", "clusterSelector", "matchLabels", "requests", "limits", "data", "annotations", "labels",
    "selector",
}  # fmt: skip
RAY_METRICS_PORT = 8080
FROM_PROMETHEUS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
RESOURCES = {"cpu", "memory", "storage", "ephemeral-storage", "nvidia.com/gpu"}


def load_all() -> list[Any]:
    """Every manifest with its name, and the RayJob inside the ConfigMap."""
    found = []
    for path in sorted(FOLDER.glob("*.yaml")):
        for manifest in yaml.safe_load_all(path.read_text()):
            found.append(pytest.param(manifest, id=f"{path.stem}-{manifest['kind']}"))
            if manifest["kind"] == "ConfigMap":
                inner = yaml.safe_load(manifest["data"]["ray_job.yaml"])
                found.append(pytest.param(inner, id=f"{path.stem}-ConfigMap-{inner['kind']}"))
    return found


MANIFESTS = load_all()
BY_NAME = {parameter.id: parameter.values[0] for parameter in MANIFESTS}
EVERY = pytest.mark.parametrize("manifest", MANIFESTS)


def ray_clusters() -> list[dict[str, Any]]:
    specs = [manifest["spec"] for manifest in BY_NAME.values() if manifest["kind"] == "RayCluster"]
    jobs = [manifest["spec"] for manifest in BY_NAME.values() if manifest["kind"] == "RayJob"]
    return specs + [job["rayClusterSpec"] for job in jobs if "rayClusterSpec" in job]


def monitor_pod() -> dict[str, Any]:
    pod: dict[str, Any] = BY_NAME["monitor-Deployment"]["spec"]["template"]["spec"]
    return pod


def pods() -> list[dict[str, Any]]:
    """The specification of every pod."""
    found = [BY_NAME["retrain-CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"], monitor_pod()]
    for cluster in ray_clusters():
        found += [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    return found


# --- the schema


@EVERY
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    assert faults(manifest) == []


@EVERY
def test_a_typo_in_any_key_is_refused(manifest: dict[str, Any]) -> None:
    keys = {path[: end + 1] for path, _ in leaves(manifest) for end, step in enumerate(path) if isinstance(step, str)}
    closed = [path for path in keys if not FREE & set(path[:-1])]
    assert len(closed) >= 4
    for path in closed:
        value: Any = manifest
        for step in path:
            value = value[step]
        assert faults(changed(manifest, path, value, key=f"{path[-1]}x")), path


@EVERY
def test_a_value_of_another_type_is_refused(manifest: dict[str, Any]) -> None:
    for path, _ in leaves(manifest):
        if path != ("metadata",):
            assert faults(changed(manifest, path, {"a": ["list"]})), path
            assert faults(changed(manifest, path, None)), path


HEAD = ("spec", "headGroupSpec", "template", "spec")
CRON_POD = ("spec", "jobTemplate", "spec", "template", "spec")


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("cluster-RayCluster", ("apiVersion",), "ray.io/v2", "there is no 'RayCluster' in 'ray.io/v2'"),
        ("retrain-CronJob", ("apiVersion",), "batch/v1beta1", "there is no 'CronJob' in 'batch/v1beta1'"),
        ("retrain-Role", ("kind",), "Roles", "there is no 'Roles'"),
        ("cluster-RayCluster", ("spec", "authOptions", "mode"), "tokn", "'tokn' is not one of ['disabled', 'token']"),
        ("train-RayJob", ("spec", "submissionMode"), "HttpMode", "'HttpMode' is not one of"),
        ("retrain-CronJob", ("spec", "concurrencyPolicy"), "Forbidden", "'Forbidden' is not one of ['Allow', "),
        ("retrain-CronJob", (*CRON_POD, "restartPolicy"), "never", "'never' is not one of"),
        ("network-NetworkPolicy", ("spec", "policyTypes", 0), "ingress", "'ingress' is not one of"),
        ("storage-PersistentVolumeClaim", ("spec", "accessModes", 0), "ReadWriteAll", "'ReadWriteAll' is not one of"),
        ("monitor-Service", ("spec", "type"), "NodePorts", "'NodePorts' is not one of"),
        ("retrain-Role", ("rules", 0, "verbs", 0), "creat", "'creat' is not one of"),
        ("cluster-RayCluster", (*HEAD, "containers"), {}, "{} is not of type 'array'"),
        ("cluster-RayCluster", (*HEAD, "containers", 0, "env", 0, "value"), 150, "150 is not of type 'string'"),
        ("cluster-RayCluster", ("spec", "workerGroupSpecs", 0, "replicas"), "4", "'4' is not of type 'integer'"),
        ("cluster-RayCluster", ("spec", "workerGroupSpecs", 0, "replicas"), -1, "-1 is less than the minimum"),
        ("cluster-RayCluster", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
        (
            "cluster-RayCluster",
            (*HEAD, "containers", 0, "resources", "requests", "memory"),
            "16GB",
            "'16GB' does not match",
        ),
        ("cluster-RayCluster", ("spec",), {}, "'headGroupSpec' is a required property"),
        ("cluster-RayCluster", (*HEAD, "containers", 0), {"image": "a"}, "'name' is a required property"),
        ("retrain-CronJob", ("spec",), {"schedule": "* * * * *"}, "'jobTemplate' is a required property"),
        ("retrain-RoleBinding", ("roleRef",), {"kind": "Role"}, "'name' is a required property"),
    ],
)
def test_a_typo_of_each_kind_is_named(name: str, path: tuple[str | int, ...], value: Any, said: str) -> None:
    assert said in " ".join(faults(changed(BY_NAME[name], path, value)))


# --- what a schema does not say


def test_every_cluster_asks_for_the_token_and_is_reached_from_inside_alone() -> None:
    assert len(ray_clusters()) == 2
    for cluster in ray_clusters():
        assert cluster["authOptions"] == {"mode": "token", "secretName": "gatehouse-ray-token"}
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    kinds = {manifest["kind"] for manifest in BY_NAME.values()}
    assert not kinds & {"Secret", "Ingress"}
    assert {one["spec"]["type"] for one in BY_NAME.values() if one["kind"] == "Service"} == {"ClusterIP"}
    assert not any(pod.get("hostNetwork") for pod in pods())
    policy = BY_NAME["network-NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    assert all(rule["from"] for rule in policy["ingress"])
    dashboard, metrics = ([{"protocol": "TCP", "port": port}] for port in (8265, RAY_METRICS_PORT))
    assert [rule.get("ports") for rule in policy["ingress"]] == [None, dashboard, metrics]
    assert policy["ingress"][2]["from"] == FROM_PROMETHEUS
    ports = [one for cluster in ray_clusters() for one in head_of(cluster)["containers"][0]["ports"]]
    assert {one["containerPort"] for one in ports if one["name"] == "metrics"} == {RAY_METRICS_PORT}


def head_of(cluster: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = cluster["headGroupSpec"]["template"]["spec"]
    return pod


def test_the_monitor_only_reads_and_is_reached_by_prometheus_alone() -> None:
    deployment, pod = BY_NAME["monitor-Deployment"]["spec"], monitor_pod()
    (container,) = pod["containers"]
    assert deployment["replicas"] == 1
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert [mount["readOnly"] for mount in container["volumeMounts"]] == [True]
    assert [volume["persistentVolumeClaim"]["readOnly"] for volume in pod["volumes"]] == [True]
    labels = deployment["template"]["metadata"]["labels"]
    service, policy = BY_NAME["monitor-Service"]["spec"], BY_NAME["monitor-NetworkPolicy"]["spec"]
    assert (
        deployment["selector"]["matchLabels"] == policy["podSelector"]["matchLabels"] == labels == service["selector"]
    )
    (port,) = container["ports"]
    number = port["containerPort"]
    assert [(one["port"], one["targetPort"]) for one in service["ports"]] == [(number, port["name"])]
    assert policy["ingress"] == [{"from": FROM_PROMETHEUS, "ports": [{"protocol": "TCP", "port": number}]}]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (action,) = (one for key, one in container[probe].items() if key in {"tcpSocket", "httpGet"})
        assert action["port"] == port["name"]
    assert container["readinessProbe"]["timeoutSeconds"] > READ_SECONDS
    verb, *arguments = container["command"][1:]
    command = getattr(typer.main.get_command(app), "commands", {})[verb]
    listen = command.make_context(verb, arguments).params["listen"]
    assert listen == f"0.0.0.0:{number}"


def test_ray_and_the_images_have_the_versions_of_this_checkout() -> None:
    assert {cluster["rayVersion"] for cluster in ray_clusters()} == {LOCK["ray"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    name = f"registry.example.com/gatehouse:{project['version']}"
    images = {container["image"] for pod in pods() for container in pod["containers"]}
    assert images == {f"{name}-cpu", f"{name}-cuda"}


def test_a_node_has_time_to_drain_and_a_stopped_job_to_write_a_checkpoint() -> None:
    for cluster in ray_clusters():
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            variables = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
            drain_seconds = float(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
            assert 0 < drain_seconds < pod["terminationGracePeriodSeconds"]
        head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
        assert float({one["name"]: one["value"] for one in head}["RAY_JOB_STOP_WAIT_TIME_S"]) >= 60


def test_no_pod_is_root_and_each_says_what_it_needs() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert {"cpu", "memory"} <= requests.keys()
            assert requests.keys() | limits.keys() <= RESOURCES
            assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
            assert "memory" in limits


def test_what_a_manifest_names_is_there() -> None:
    clusters = {manifest["metadata"]["name"] for manifest in BY_NAME.values() if manifest["kind"] == "RayCluster"}
    for manifest in BY_NAME.values():
        if manifest["kind"] == "RayJob" and "clusterSelector" in manifest["spec"]:
            assert manifest["spec"]["clusterSelector"].keys() == {"ray.io/cluster"}
            assert manifest["spec"]["clusterSelector"]["ray.io/cluster"] in clusters
    claim = BY_NAME["storage-PersistentVolumeClaim"]["metadata"]["name"]
    config_map = BY_NAME["retrain-ConfigMap"]["metadata"]["name"]
    for pod in pods():
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {"claimName": claim})["claimName"] == claim
            assert volume.get("configMap", {"name": config_map}) == {"name": config_map}
        assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == set(volumes)
    account = BY_NAME["retrain-ServiceAccount"]["metadata"]["name"]
    assert (
        BY_NAME["retrain-CronJob"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["serviceAccountName"] == account
    )
    assert BY_NAME["retrain-RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert BY_NAME["retrain-RoleBinding"]["roleRef"]["name"] == BY_NAME["retrain-Role"]["metadata"]["name"]


def test_parameters_of_ray_start_exist() -> None:
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for parameter in start.params for option in parameter.opts}
    groups = [g for cluster in ray_clusters() for g in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert {name for group in groups for name in group["rayStartParams"]} <= known


@pytest.mark.parametrize("name", [name for name in BY_NAME if name.endswith("RayJob")])
def test_the_command_of_a_job_is_one_of_gatehouse(name: str) -> None:
    python, minus_m, package, verb, *arguments = shlex.split(BY_NAME[name]["spec"]["entrypoint"])
    assert (python, minus_m, package) == ("python", "-m", "jobs")
    assert "cluster.address=auto" in arguments
    group = typer.main.get_command(app)
    command = getattr(group, "commands", {}).get(verb)
    assert command is not None, f"there is no `gatehouse {verb}`"
    command.make_context(verb, arguments)


def test_retraining_runs_once_at_a_time_in_a_named_zone() -> None:
    spec = BY_NAME["retrain-CronJob"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["timeZone"] in available_timezones()
    assert len(spec["schedule"].split()) == 5
    job = BY_NAME["retrain-ConfigMap-RayJob"]["spec"]
    assert job["activeDeadlineSeconds"] < spec["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    rules = BY_NAME["retrain-Role"]["rules"]
    assert rules == [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get"]}]


# --- against KubeRay's own CRDs


def disagreements(ours: dict[str, Any], theirs: dict[str, Any], path: str = "") -> list[str]:
    """Where our schema of KubeRay's fields says something else than a CRD."""
    if "$ref" in ours or path == ".metadata":
        return []
    found = []
    for key in ("type", "enum"):
        if key in ours and key in theirs and ours[key] != theirs[key]:
            found.append(f"{path}: {key} {ours[key]}, in the CRD {theirs[key]}")
    if set(ours.get("required", ())) != set(theirs.get("required", ())) and path:
        found.append(f"{path}: required {ours.get('required')}, in the CRD {theirs.get('required')}")
    for name, inner in ours.get("properties", {}).items():
        if name not in theirs.get("properties", {}):
            found.append(f"{path}.{name} is not in the CRD")
        else:
            found += disagreements(inner, theirs["properties"][name], f"{path}.{name}")
    if "items" in ours:
        found += disagreements(ours["items"], theirs["items"], f"{path}[]")
    return found


@pytest.mark.skipif(not KUBERAY_CRDS, reason="KUBERAY_CRDS names no folder of KubeRay's CRDs")
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_our_schema_and_our_manifests_agree_with_the_crds(kind: str) -> None:
    crd = strict_crd(Path(KUBERAY_CRDS or ""), f"{kind.lower()}s")
    assert disagreements({**KUBERAY[kind], "$defs": kubernetes_definitions()}, crd) == []
    validator = jsonschema.Draft202012Validator(crd)
    for manifest in BY_NAME.values():
        if manifest["kind"] == kind:
            assert [error.json_path for error in validator.iter_errors(manifest)] == []

"""What a manifest may say: Kubernetes' own schema, made strict, and that of KubeRay 1.7 for the fields that we use.

Kubernetes' schema comes from the package kubernetes-validate. KubeRay's is written here after its CRDs; where
KUBERAY_CRDS names a folder of them (helm-chart/kuberay-operator/crds of its repository), test_manifests.py holds both
against those.
"""

import copy
import importlib.util
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import yaml

KUBERNETES = "v1.37.0-local-strict"
JsonObject = dict[str, Any]

# Kubernetes' schema has these as plain strings.
ENUMS: dict[str, dict[str, tuple[str, ...]]] = {
    "batch.v1.CronJobSpec": {"concurrencyPolicy": ("Allow", "Forbid", "Replace")},
    "batch.v1.PodFailurePolicyRule": {"action": ("FailJob", "FailIndex", "Ignore", "Count")},
    "batch.v1.PodFailurePolicyOnExitCodesRequirement": {"operator": ("In", "NotIn")},
    "core.v1.Container": {"imagePullPolicy": ("Always", "IfNotPresent", "Never")},
    "core.v1.ContainerPort": {"protocol": ("TCP", "UDP", "SCTP")},
    "core.v1.PodSecurityContext": {"fsGroupChangePolicy": ("OnRootMismatch", "Always")},
    "core.v1.PodSpec": {"restartPolicy": ("Always", "OnFailure", "Never")},
    "core.v1.HTTPGetAction": {"scheme": ("HTTP", "HTTPS")},
    "core.v1.ServicePort": {"protocol": ("TCP", "UDP", "SCTP")},
    "core.v1.ServiceSpec": {"type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")},
    "core.v1.SeccompProfile": {"type": ("RuntimeDefault", "Unconfined", "Localhost")},
    "core.v1.Toleration": {
        "operator": ("Exists", "Equal"),
        "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    },
    "networking.v1.NetworkPolicyPort": {"protocol": ("TCP", "UDP", "SCTP")},
    "rbac.v1.RoleRef": {"kind": ("Role", "ClusterRole")},
    "rbac.v1.Subject": {"kind": ("User", "Group", "ServiceAccount")},
}
ITEM_ENUMS: dict[str, dict[str, tuple[str, ...]]] = {
    "core.v1.PersistentVolumeClaimSpec": {
        "accessModes": ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
    },
    "networking.v1.NetworkPolicySpec": {"policyTypes": ("Ingress", "Egress")},
    "rbac.v1.PolicyRule": {
        "verbs": ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "*")
    },
}
QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$"


def fields(*required: str, **properties: JsonObject) -> JsonObject:
    """An object of these fields and no other."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def definition(name: str) -> JsonObject:
    return {"$ref": f"#/$defs/io.k8s.{name}"}


STRING, BOOLEAN, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
STRINGS = {"type": "object", "additionalProperties": STRING}
POD_TEMPLATE = definition("api.core.v1.PodTemplateSpec")
RAY_CLUSTER = fields(
    "headGroupSpec",
    rayVersion=STRING,
    suspend=BOOLEAN,
    authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName=STRING),
    headGroupSpec=fields(
        "template",
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=STRINGS,
        template=POD_TEMPLATE,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            "groupName",
            "minReplicas",
            "maxReplicas",
            "template",
            groupName=STRING,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=STRINGS,
            template=POD_TEMPLATE,
        ),
    },
)
RAY_JOB = fields(
    entrypoint=STRING,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    clusterSelector=STRINGS,
    rayClusterSpec=RAY_CLUSTER,
    shutdownAfterJobFinishes=BOOLEAN,
    ttlSecondsAfterFinished=COUNT,
    activeDeadlineSeconds=COUNT,
    backoffLimit=COUNT,
    suspend=BOOLEAN,
)
KUBERAY = {
    kind: fields(
        "metadata",
        "spec",
        apiVersion=STRING,
        kind=STRING,
        metadata=definition("apimachinery.pkg.apis.meta.v1.ObjectMeta"),
        spec=spec,
    )
    for kind, spec in (("RayCluster", RAY_CLUSTER), ("RayJob", RAY_JOB))
}


@cache
def kubernetes_definitions() -> JsonObject:
    """Kubernetes' types by name, with the enumerations above and quantities as they are written."""
    found = importlib.util.find_spec("kubernetes_validate")
    assert found is not None
    assert found.origin is not None
    path = Path(found.origin).parent / "kubernetes-json-schema" / KUBERNETES / "_definitions.json"
    definitions: JsonObject = json.loads(path.read_text())["$defs"]
    for name, values in ENUMS.items():
        for field, choices in values.items():
            definitions[f"io.k8s.api.{name}"]["properties"][field]["enum"] = list(choices)
    for name, values in ITEM_ENUMS.items():
        for field, choices in values.items():
            definitions[f"io.k8s.api.{name}"]["properties"][field]["items"]["enum"] = list(choices)
    quantity = {"type": ["string", "integer"], "pattern": QUANTITY}
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = quantity
    return definitions


@cache
def _validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator | None:
    definitions = kubernetes_definitions()
    if api_version == "ray.io/v1" and kind in KUBERAY:
        return jsonschema.Draft202012Validator({**KUBERAY[kind], "$defs": definitions})
    group, _, version = api_version.rpartition("/")
    wanted = {"group": group, "version": version, "kind": kind}
    for name, schema in definitions.items():
        if wanted in schema.get("x-kubernetes-group-version-kind", ()):
            return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": definitions})
    return None


def faults(manifest: JsonObject) -> list[str]:
    """What is wrong with a manifest, each fault with its path; none where Kubernetes would take it."""
    validator = _validator(str(manifest.get("apiVersion")), str(manifest.get("kind")))
    if validator is None:
        return [f"there is no {manifest.get('kind')!r} in {manifest.get('apiVersion')!r}"]
    found = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(manifest)]
    # Kubernetes' schema takes null for anything: a key whose value was forgotten.
    return found + [f"{path}: is empty" for path, value in leaves(manifest) if value is None]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value that is no object and no list, with its path."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path, value


def changed(manifest: JsonObject, path: tuple[str | int, ...], value: Any, key: str | None = None) -> JsonObject:
    """A copy with another value at a path, under another key if one is given."""
    result = copy.deepcopy(manifest)
    inner: Any = result
    for step in path[:-1]:
        inner = inner[step]
    if key is not None:
        del inner[path[-1]]
    inner[path[-1] if key is None else key] = value
    return result


def strict_crd(folder: Path, plural: str) -> JsonObject:
    """The schema of v1 in a CRD, with unknown fields refused."""
    crd = yaml.safe_load((folder / f"ray.io_{plural}.yaml").read_text())
    versions = {version["name"]: version for version in crd["spec"]["versions"]}
    schema = versions["v1"]["schema"]["openAPIV3Schema"]

    def tighten(node: Any) -> Any:
        if isinstance(node, list):
            return [tighten(inner) for inner in node]
        if not isinstance(node, dict):
            return node
        result = {key: tighten(inner) for key, inner in node.items()}
        if isinstance(node.get("properties"), dict) and "additionalProperties" not in node:
            result["additionalProperties"] = False
        if node.get("x-kubernetes-int-or-string"):
            result["type"] = ["integer", "string"]
        return result

    result: JsonObject = tighten(schema)
    result["properties"]["metadata"] = {"type": "object"}
    return result

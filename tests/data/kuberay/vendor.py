"""Make rayjob.schema.json from KubeRay's own custom resource definition.

    python tests/data/kuberay/vendor.py ray.io_rayjobs.yaml

The definition holds the template of a pod three times; here it is once. Kubernetes prunes what a schema does not name,
and `kubectl --validate=strict` refuses it: each object that lists its properties is closed accordingly.
"""

import json
import sys
from pathlib import Path

import yaml

KEPT = {"type", "properties", "items", "required", "enum", "anyOf", "pattern", "minimum", "minItems", "minLength",
        "maxLength", "nullable", "additionalProperties", "default"}  # fmt: skip


def closed(node):
    if isinstance(node, list):
        return [closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        if key == "properties":
            kept[key] = {name: closed(child) for name, child in value.items()}
        elif key in KEPT:
            kept[key] = closed(value)
    if (
        "properties" in kept
        and "additionalProperties" not in kept
        and not node.get("x-kubernetes-preserve-unknown-fields")
    ):
        kept["additionalProperties"] = False
    return kept


def main():
    definition = yaml.safe_load(Path(sys.argv[1]).read_text())
    version = next(version for version in definition["spec"]["versions"] if version["storage"])
    schema = version["schema"]["openAPIV3Schema"]
    spec = closed(schema["properties"]["spec"])
    cluster = spec["properties"]["rayClusterSpec"]["properties"]
    template = spec["properties"]["submitterPodTemplate"]
    groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]["items"]
    assert all(group["properties"]["template"] == template for group in groups)
    reference = {"$ref": "#/$defs/podTemplate"}
    spec["properties"]["submitterPodTemplate"] = reference
    for group in groups:
        group["properties"]["template"] = reference
    result = {
        "$comment": "From ray-project/kuberay, Apache-2.0; see NOTICE.md beside this file.",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"const": f"{definition['spec']['group']}/{version['name']}"},
            "kind": {"const": definition["spec"]["names"]["kind"]},
            "metadata": {"type": "object"},
            "spec": spec,
        },
        "$defs": {"podTemplate": template},
    }
    Path(__file__).with_name("rayjob.schema.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()

"""The launcher's, KubeRay's and systemd's files: valid to those who read them, and consistent with the project."""

import configparser
import copy
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.commands import prepare_config
from ray.autoscaler._private.util import validate_config

from jobs.running.command import parse
from jobs.settings import ImagenetSettings
from tests.cluster.fake_host import put
from tests.commands import ROOT, run_line
from tests.waiting import wait_until

CLUSTER = ROOT / "cluster"
LAUNCHER: dict[str, Any] = yaml.safe_load((CLUSTER / "loudboxes.yaml").read_text())
MANIFESTS: dict[str, dict[str, Any]] = {
    path.stem: yaml.safe_load(path.read_text()) for path in sorted((CLUSTER / "kubernetes").glob("*.yaml"))
}
KUBERAY = yaml.safe_load((ROOT / "tests/cluster/kuberay_v1.yaml").read_text())
UNITS = sorted((CLUSTER / "systemd").glob("*.service"))


def test_the_launcher_config_passes_rays_own_schema_and_keeps_every_host(tmp_path: Path) -> None:
    auth = LAUNCHER["auth"] | {"ssh_private_key": str(put(tmp_path / "key"))}
    config: dict[str, Any] = prepare_config(copy.deepcopy(LAUNCHER) | {"auth": auth})
    validate_config(config)
    (kind,) = config["available_node_types"].values()
    # Fewer at least than at most, and Ray would send idle LoudBoxes away.
    assert kind["min_workers"] == kind["max_workers"] == len(LAUNCHER["provider"]["worker_ips"]) == 3
    with pytest.raises(jsonschema.ValidationError, match="setup_comands"):
        validate_config(config | {"setup_comands": []})


def test_what_the_launcher_and_the_image_copy_is_there_and_enough_for_the_commands_they_run() -> None:
    mounts = LAUNCHER["file_mounts"]
    project = {here for here in mounts.values() if not here.startswith("~")}
    assert all((ROOT / here).exists() for here in project)
    for command in [*LAUNCHER["setup_commands"], *LAUNCHER["head_start_ray_commands"], *LAUNCHER["worker_start_ray_commands"]]:
        for word in shlex.split(command):
            if (script := word.removeprefix("~/loudbox-vit/")) != word and not script.startswith(".venv/"):
                assert script.split("/")[0] in project
                assert (ROOT / script).stat().st_mode & 0o111
    dockerfile = (CLUSTER / "kubernetes/Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE) for word in line.split()]
    assert {"jobs", "vit_actor", "cluster", "requirements.txt"} <= set(sources)
    assert all((ROOT / source).exists() for source in sources)
    assert re.search(r"^USER (?!0|root)\S+$", dockerfile, re.MULTILINE)
    assert {"curl", "xz-utils", "wget"} <= set(dockerfile.split())
    assert f"FROM python:{(ROOT / '.python-version').read_text().strip()}-" in dockerfile
    installer = (CLUSTER / "install.sh").read_text()
    assert set(re.findall(r"requirements[\w-]*\.txt", installer)) <= project
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"


def pods() -> Iterator[dict[str, Any]]:
    spec = MANIFESTS["raycluster"]["spec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        yield group["template"]["spec"]


def test_kuberay_v1_knows_the_cluster_and_every_pod_has_the_token_its_volumes_and_its_boards() -> None:
    jsonschema.validate(MANIFESTS["raycluster"], KUBERAY | {"$ref": "#/definitions/RayCluster"})
    assert MANIFESTS["raycluster"]["spec"]["authOptions"] == {"mode": "token"}
    for pod in pods():
        (container,) = pod["containers"]
        assert {"name": "RAY_AUTH_MODE", "value": "token"} in container["env"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["securityContext"]["runAsNonRoot"]
    # A lost host is given up as fast as on a cluster of start-node.sh, and the pinned Ray runs.
    script = dict(re.findall(r"(RAY_(?:health|grpc|idle)\w+)=(\d+)", (CLUSTER / "start-node.sh").read_text()))
    environment = next(pods())["containers"][0]["env"]
    assert {entry["name"]: entry["value"] for entry in environment if re.match("RAY_[a-z]", entry["name"])} == script
    assert {"RAY_health_check_failure_threshold", "RAY_grpc_client_keepalive_timeout_ms"} <= script.keys()
    pinned = re.search(r"^ray\[.*\]==(.+)$", (ROOT / "requirements.in").read_text(), re.MULTILINE)
    assert pinned
    assert MANIFESTS["raycluster"]["spec"]["rayVersion"] == pinned[1]
    head, loudbox, helper = (pod["containers"][0]["resources"]["limits"] for pod in pods())
    assert (loudbox["tenstorrent.com/n300"], loudbox["hugepages-1Gi"]) == (4, "16Gi")
    assert not {"tenstorrent.com/n300", "hugepages-1Gi"} & (head.keys() | helper.keys())


def test_the_jobs_pod_submits_to_that_cluster_what_the_job_accepts_and_starts_it_again() -> None:
    job, cluster = MANIFESTS["job"], MANIFESTS["raycluster"]
    assert (job["apiVersion"], job["kind"], job["spec"]["backoffLimit"]) == ("batch/v1", "Job", 0)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == next(pods())["containers"][0]["image"]
    name = cluster["metadata"]["name"]
    server, mode, token = container["env"]
    assert server["value"] == f"http://{name}-head-svc:8265"  # as KubeRay names the head's service
    assert mode["value"] == cluster["spec"]["authOptions"]["mode"]
    assert token["valueFrom"]["secretKeyRef"] == {"name": name, "key": "auth_token"}
    assert container["command"][:-1] == ["python", "-m", "cluster.submit", "--retries", "10"]
    assert container["command"][-1] == "jobs.imagenet"
    args = parse(ImagenetSettings, container["args"], "jobs.imagenet", None)
    mounted = [mount["mountPath"] for mount in next(pods())["containers"][0]["volumeMounts"]]
    assert all(any(path.startswith(f"{mount}/") for mount in mounted) for path in (args.data, args.model, args.out))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_each_unit_starts_again_when_it_ends_but_the_jobs_leaves_that_to_submit(unit: Path, tmp_path: Path) -> None:
    parsed = configparser.ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(unit)
    service = parsed["Service"]
    assert (service["User"], service["NoNewPrivileges"]) == ("loudbox", "true")
    assert (ROOT / service["ExecStart"].split()[0].removeprefix("/opt/loudbox-vit/")).is_file()
    if shutil.which("systemd-analyze"):
        copied = put(tmp_path / unit.name, unit.read_text().replace("/opt/loudbox-vit", str(ROOT)))
        done = run_line("systemd-analyze", "verify", "--man=no", copied)
        assert (done.code, done.stderr) == (0, "")
    _, role, *rest = service["ExecStart"].split()
    if unit.stem == "loudbox-job":
        assert [role, *rest] == ["-m", "cluster.submit", "--retries", "10", "$JOB"]
    else:
        assert (role, rest[-1]) == (unit.stem.removeprefix("loudbox-"), "--block")
    assert service["Restart"] == ("no" if unit.stem == "loudbox-job" else "always")


@pytest.mark.parametrize(
    ("ends", "restarted", "code", "requeued"),
    [
        ("exit 0", 0, 0, False),
        ("exit 2", 0, 2, False),
        ("exit 1", 9, 1, True),
        ("exit 1", 10, 1, False),
        ("while sleep 0.1; do :; done", 0, 143, True),
    ],
)
def test_a_job_of_slurms_stops_and_is_queued_again(tmp_path: Path, ends: str, restarted: int, code: int, requeued: bool) -> None:
    job = f'trap "sleep 0.5; exit 143" TERM; echo "$@" >{tmp_path}/called; {ends}'
    for name, body in ((".venv/bin/python", job), ("bin/scontrol", f'echo "$@" >{tmp_path}/requeued')):
        put(tmp_path / name, f"#!/usr/bin/env bash\n{body}\n").chmod(0o755)
    slurm = {"SLURM_SUBMIT_DIR": tmp_path, "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": restarted}
    environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", **{name: str(value) for name, value in slurm.items()}}
    script = ["bash", str(CLUSTER / "slurm/loudbox.sbatch"), "jobs.imagenet", "--data", "a b"]
    with subprocess.Popen(script, env=environment, stdout=subprocess.DEVNULL) as running:
        wait_until((tmp_path / "called").exists, 30, 0.05)
        if ends.startswith("while"):
            running.terminate()
        assert running.wait(30) == code
    assert (tmp_path / "called").read_text() == "-m jobs.imagenet --data a b --resume\n"
    assert (tmp_path / "requeued").exists() == requeued


@pytest.mark.slow  # needs Debian's prometheus, which CI does not install
def test_the_alerts_fire_for_what_they_name_and_for_nothing_else() -> None:
    checked = run_line("promtool", "test", "rules", "tests/cluster/alerts_test.yml").succeeded()
    assert "SUCCESS" in checked.output

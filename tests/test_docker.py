"""Images, compose file and manifests, as far as they can be held true without Docker: linted, and what they name exists."""

import ast
import fnmatch
import http.server
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pipeline.recipe import published_recipes
from trainer import config as training_config

ROOT = Path(__file__).resolve().parent.parent
DOCKER = ROOT / "docker"
IMAGES = ("pipeline", "trainer")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
VERSION = PROJECT["project"]["version"]
PINS = dict(
    line.split("==")
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
)
ID = "10001"
DIGEST = r"@sha256:[0-9a-f]{64}"
YAML_RULES = {
    "extends": "default",
    "rules": {
        "line-length": {"max": 126},
        "document-start": "disable",
        "comments": {"min-spaces-from-content": 1},
        "truthy": {"check-keys": False},
    },
}


def tool(name: str) -> str:
    """A linter, installed beside this Python or anywhere."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, f"{name} is missing; it comes with the extra `test`"
    return found


def lint(*command: str, **options: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stdout + done.stderr


def script(name: str) -> ModuleType:
    """A program of docker/ as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCKER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def instructions(image: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile: name and the rest, lines joined."""
    lines = (DOCKER / f"Dockerfile.{image}").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line.strip()]  # type: ignore[misc]


def of(image: str, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(image) if instruction == name]


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
MANIFESTS = [path for path in sorted((DOCKER / "kubernetes").rglob("*.yaml")) if path.name != "kustomization.yaml"]
OBJECTS = [document for path in MANIFESTS for document in documents(path)]
PODS = {
    f"{document['kind']}/{document['metadata']['name']}": document["spec"]["template"]["spec"]
    if document["kind"] == "Job"
    else document["spec"]
    for document in OBJECTS
    if document["kind"] in ("Job", "Pod")
}


# Linters.


@pytest.mark.parametrize("image", IMAGES)
def test_dockerfiles_are_linted(image: str) -> None:
    lint(tool("hadolint"), "--failure-threshold", "style", str(DOCKER / f"Dockerfile.{image}"))


def test_shell_scripts_are_linted() -> None:
    scripts = sorted(str(path) for path in DOCKER.glob("*.sh"))
    assert all(os.access(path, os.X_OK) for path in scripts) and scripts
    for path in scripts:
        lint("bash", "-n", path)
    lint(tool("shellcheck"), *scripts)


def test_yaml_is_linted() -> None:
    lint(tool("yamllint"), "--strict", "--config-data", json.dumps(YAML_RULES), str(DOCKER))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_fit_the_schemas_of_kubernetes(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    for document in documents(path):
        for version in ("1.29", "1.34"):
            validate(document, version, strict=True)


def test_docker_compose_reads_the_compose_file() -> None:
    compose = shutil.which("docker-compose")
    if compose is None:
        pytest.skip("needs docker-compose")
    lint(compose, "--file", str(DOCKER / "compose.yaml"), "--profile", "demo", "config", "--quiet")


# Images.


@pytest.mark.parametrize("image", IMAGES)
def test_base_images_are_pinned_and_one(image: str) -> None:
    (base,) = [arg.removeprefix("PYTHON=") for arg in of(image, "ARG") if arg.startswith("PYTHON=")]
    assert re.fullmatch(rf"python:3\.\d+\.\d+-slim-\w+{DIGEST}", base)
    assert base == next(arg.removeprefix("PYTHON=") for arg in of(IMAGES[0], "ARG") if arg.startswith("PYTHON="))
    assert {rest.split()[0] for rest in of(image, "FROM")} == {"${PYTHON}"}
    (labels,) = of(image, "LABEL")
    assert f'base.name="docker.io/library/{base.split("@")[0]}"' in labels
    assert f"ARG VERSION={VERSION}" in (DOCKER / f"Dockerfile.{image}").read_text()
    minor = re.match(r"python:(3\.\d+)", base)
    everything = "".join(path.read_text() for path in DOCKER.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert minor and set(re.findall(r"lib/python(3\.\d+)/site-packages", everything)) == {minor[1]}


@pytest.mark.parametrize("image", IMAGES)
def test_images_run_as_nobody_in_particular_under_an_init(image: str) -> None:
    assert of(image, "USER") == [f"{ID}:{ID}"]
    assert instructions(image).index(("USER", f"{ID}:{ID}")) > max(
        number for number, (name, _) in enumerate(instructions(image)) if name in ("RUN", "COPY")
    )
    assert any(f"--uid {ID} --gid {ID}" in run for run in of(image, "RUN"))
    (entrypoint,) = of(image, "ENTRYPOINT")
    assert json.loads(entrypoint)[0] == "/usr/bin/tini" and any(" tini" in run for run in of(image, "RUN"))
    (health,) = of(image, "HEALTHCHECK")
    assert "/opt/crawlmill/share/healthcheck.py" in health


def let_through(path: str, ignore: list[str]) -> bool:
    """Whether a .dockerignore leaves a path in the context: the last pattern that fits it, or a folder above it, decides."""
    kept = True
    parts = path.split("/")
    above = ["/".join(parts[: n + 1]) for n in range(len(parts))]
    for pattern in ignore:
        wanted = pattern.removeprefix("!")
        if wanted.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, wanted.removeprefix("**/")) for part in parts)
        else:
            fits = any(fnmatch.fnmatchcase(name, wanted) and name.count("/") == wanted.count("/") for name in above)
        if fits:
            kept = pattern.startswith("!")
    return kept


@pytest.mark.parametrize("image", IMAGES)
def test_what_is_copied_exists_and_reaches_the_build(image: str) -> None:
    ignore = [
        line
        for line in (DOCKER / f"Dockerfile.{image}.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    stages = {rest.split(" AS ")[1] for rest in of(image, "FROM") if " AS " in rest}
    copied = []
    for copy in of(image, "COPY"):
        *sources, _ = [word for word in shlex.split(copy) if not word.startswith("--")]
        if "--from=" in copy:
            assert set(re.findall(r"--from=(\S+)", copy)) <= stages
            continue
        copied += sources
    for source in copied:
        assert (ROOT / source).exists(), source
        assert let_through(source, ignore), source
    unwanted = [".git/config", ".env", "pipeline/__pycache__/a.cpython-311.pyc", "jobs/.secret", "tests/conftest.py"]
    assert not [path for path in unwanted if let_through(path, ignore)]
    module = "trainer/train.py" if image == "trainer" else "jobs/run.py"
    assert let_through(module, ignore) and not let_through("demo/web/a.warc.gz", ignore)
    # What `pip install .` wants of the build context.
    assert {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= set(copied)


def installed(image: str) -> list[str]:
    """The requirements that an image installs."""
    (run,) = [run for run in of(image, "RUN") if "docker/requirements.py" in run]
    words = shlex.split(run.split(">")[0])[2:]
    extras, _, only = " ".join(words).partition("--only")
    return script("requirements").requirements(PROJECT["project"], extras.split(), only.split() or None)


@pytest.mark.parametrize("image", IMAGES)
def test_python_packages_are_those_that_the_tests_use(image: str) -> None:
    (constraints,) = re.findall(r'PIP_CONSTRAINT="([^"]+)"', " ".join(of(image, "ENV")))
    for path in constraints.split():
        assert (ROOT / path.removeprefix("/src/")).is_file()
    assert "/src/constraints.txt" in constraints.split()
    names = [re.match(r"[\w.-]+", line)[0].lower() for line in installed(image)]  # type: ignore[index]
    assert not [name for name in names if name not in PINS]
    assert ("pyspark" in names) == (image == "pipeline") and ("torch" in names) == (image == "trainer")
    # Spark 4 runs on Java 17; the image must have a Java that the pinned Spark knows.
    assert image == "trainer" or (PINS["pyspark"] >= "4" and "openjdk-17-jre-headless" in " ".join(of(image, "RUN")))


def test_the_trainer_image_has_what_the_trainer_imports() -> None:
    optional = {"lm_eval", "transformers", "matplotlib"}
    known = {"pyyaml": "yaml"}
    have = {known.get(name, name) for line in installed("trainer") for name in re.findall(r"^[\w-]+", line.lower())}
    pending, seen, missing = [ROOT / "trainer"], set(), set()
    while pending:
        for path in sorted(pending.pop().rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                for name in names:
                    top = name.split(".")[0]
                    if top == "pipeline":
                        seen.add(name)
                    elif top not in have | optional | {"trainer"} and top not in sys.stdlib_module_names:
                        missing.add(f"{path.name}: {name}")
    assert not missing
    # These two need nothing but PyYAML.
    assert seen <= {"pipeline.errors", "pipeline.yaml_files"}


def test_every_file_of_the_packages_is_installed() -> None:
    setuptools = PROJECT["tool"]["setuptools"]
    left_out = []
    for package in ("pipeline", "classifiers", "trainer", "jobs"):
        patterns = setuptools["package-data"].get(package, [])
        patterns = [*patterns, *(pattern.removeprefix("**/") for pattern in patterns)]
        for path in (ROOT / package).rglob("*"):
            name = path.relative_to(ROOT / package).as_posix()
            if not path.is_file() or path.suffix in (".py", ".md") or "__pycache__" in path.parts:
                continue
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                left_out.append(f"{package}/{name}")
    assert not left_out


# Scripts.


def entrypoint(tmp_path: Path, *arguments: str, **settings: str) -> list[str]:
    """What the entrypoint would run: every program it may start is one that prints its name and arguments."""
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    for name in ("spark-class", "spark-submit", "java", "crawlmill"):
        (programs / name).write_text(f'#!/bin/sh\nprintf "%s\\n" {name} "$@"\necho "$SPARK_HISTORY_OPTS" >&2\n')
        (programs / name).chmod(0o755)
    environment = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "JAVA_HOME": str(tmp_path),
        "SPARK_HOME": "/opt/spark",
        **settings,
    }
    done = subprocess.run(
        [DOCKER / "entrypoint.sh", *arguments], env=environment, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines() + ([done.stderr.strip()] if arguments[0] == "history" else [])


def test_the_entrypoint_starts_what_it_is_asked_for(tmp_path: Path) -> None:
    assert entrypoint(tmp_path, "crawlmill", "run", "a b") == ["crawlmill", "run", "a b"]
    master = entrypoint(tmp_path, "master", SPARK_MASTER_HOST="m")
    assert master[:4] == ["spark-class", "org.apache.spark.deploy.master.Master", "--host", "m"]
    worker = entrypoint(tmp_path, "worker", "spark://m:7077", SPARK_LOCAL_DIRS="/l")
    assert worker[1].endswith("worker.Worker") and worker[-3:] == ["--work-dir", "/l/work", "spark://m:7077"]
    history = entrypoint(tmp_path, "history", SPARK_EVENTS="file:///e")
    assert history[1].endswith("HistoryServer") and "-Dspark.history.fs.logDirectory=file:///e" in history[-1]
    driver = entrypoint(tmp_path, "driver", "--class", "C", SPARK_DRIVER_BIND_ADDRESS="10.0.0.1")
    assert driver == [
        "spark-submit", "--conf", "spark.driver.bindAddress=10.0.0.1", "--deploy-mode", "client", "--class", "C",
    ]  # fmt: skip


def test_the_entrypoint_starts_an_executor_for_kubernetes(tmp_path: Path) -> None:
    given = {
        "SPARK_DRIVER_URL": "spark://d", "SPARK_EXECUTOR_ID": "7", "SPARK_EXECUTOR_CORES": "4",
        "SPARK_EXECUTOR_MEMORY": "2g", "SPARK_APPLICATION_ID": "app", "SPARK_EXECUTOR_POD_IP": "10.0.0.2",
        "SPARK_EXECUTOR_POD_NAME": "pod", "SPARK_RESOURCE_PROFILE_ID": "0",
    }  # fmt: skip
    options = {f"SPARK_JAVA_OPT_{n}": f"-Dn={n} blank" for n in range(11)}
    said = entrypoint(tmp_path, "executor", **given, **options)
    assert said[0] == "java" and said[1:12] == [f"-Dn={n} blank" for n in range(11)]
    assert said[12:14] == ["-Xms2g", "-Xmx2g"] and said[15] == "/opt/spark/conf:/opt/spark/jars/*"
    flags = dict(zip(said[17::2], said[18::2], strict=True))
    assert flags == {
        "--driver-url": "spark://d", "--executor-id": "7", "--cores": "4", "--app-id": "app",
        "--hostname": "10.0.0.2", "--resourceProfileId": "0", "--podName": "pod",
    }  # fmt: skip


def test_compiled_kernels_are_copied_where_numba_may_write(tmp_path: Path) -> None:
    (tmp_path / "share").mkdir()
    (tmp_path / "kernels" / "a").mkdir(parents=True)
    (tmp_path / "kernels" / "a" / "k.nbi").write_bytes(b"1")
    shutil.copy(DOCKER / "entrypoint.sh", tmp_path / "share")
    for _ in range(2):
        subprocess.run(
            [tmp_path / "share" / "entrypoint.sh", "true"],
            env={"PATH": "/usr/bin:/bin", "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
            check=True,
            timeout=20,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "kernels", "share"]
    assert (tmp_path / "cache" / "a" / "k.nbi").read_bytes() == b"1"


class Page(http.server.BaseHTTPRequestHandler):
    status = 200

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()


def test_a_server_is_well_while_its_page_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    health = script("healthcheck")
    monkeypatch.setattr(health, "running", lambda: [["tini"], ["java", "-cp", "x", next(iter(health.PAGES)), "--host"]])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("SPARK_MASTER_WEBUI_PORT", str(server.server_port))
        assert health.problems() == []
        monkeypatch.setattr(Page, "status", 503)
        assert "503" in health.problems()[0]
        server.shutdown()
    assert "/json/" in health.problems()[0]
    monkeypatch.setattr(health, "running", lambda: [["crawlmill", "run"]])
    assert health.problems() == []


def test_a_training_run_is_well_while_its_log_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    health = script("healthcheck")
    log = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("HEARTBEAT_FILE", str(log))
    assert health.heartbeat(log, 1) is None
    log.write_text("{}")
    assert health.heartbeat(log, 1800) is None
    os.utime(log, (time.time() - 2000, time.time() - 2000))
    assert "has not grown" in health.heartbeat(log, 1800)


def test_the_demo_names_what_there_is(tmp_path: Path) -> None:
    text = (DOCKER / "demo.sh").read_text()
    (recipe,) = re.findall(r"--recipe (\w+)", text)
    assert recipe in published_recipes()
    options = set(re.findall(r"(--(?:recipe|input|output|benchmarks|index)) ", text))
    assert all(f'"{option}"' in (ROOT / "jobs" / "submit.py").read_text() for option in options)
    assert set(re.findall(r"\$here/([\w.]+)", text)) <= {Path(c).name for c in " ".join(of("pipeline", "COPY")).split()}


# Compose.


def test_compose_refers_to_what_it_has() -> None:
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    roles = set(re.findall(r"^(\w+)\)$", (DOCKER / "entrypoint.sh").read_text(), re.MULTILINE))
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services), name
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        for volume in service.get("volumes", ()):
            assert volume.startswith("/") or volume.split(":")[0] in volumes, volume
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
            assert f"CRAWLMILL_VERSION:-{VERSION}" in service["image"] and service["pull_policy"] == "build"
            assert service["command"][0] in roles or service["command"] == ["/opt/crawlmill/share/demo.sh"]
        else:
            assert re.search(rf":[\w.]+{DIGEST}$", service["image"]), name
    assert services["demo"]["environment"]["SPARK_MASTER"] == services["worker"]["command"][1] == "spark://master:7077"
    assert services["master"]["environment"]["SPARK_MASTER_HOST"] == services["master"]["hostname"]
    # Executors read the store as the driver does.
    keys = {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert all(keys <= set(services[name]["environment"]) for name in ("worker", "demo"))
    assert not {"hostname", "container_name", "ports"} & set(services["worker"]), "workers must scale"


def test_compose_confines_every_service() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "build" in service or service["user"] == f"{ID}:{ID}", name
        # Java loads native libraries from /tmp; Docker mounts it with noexec unless it is told otherwise.
        wanted = "/tmp:exec,mode=1777" if "build" in service else "/tmp"
        assert wanted in service["tmpfs"], name


# Kubernetes.


@pytest.mark.parametrize("name", PODS)
def test_pods_are_confined(name: str) -> None:
    pod = PODS[name]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == int(ID)
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    # Only the driver speaks with Kubernetes.
    assert pod.get("serviceAccountName") == "driver" or pod["automountServiceAccountToken"] is False
    mounts = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= mounts
        assert not [entry for entry in container.get("env", ()) if re.search("SECRET|KEY|TOKEN", entry["name"])]


def test_manifests_refer_to_what_they_have() -> None:
    named = {(document["kind"], document["metadata"]["name"]) for document in OBJECTS}
    generated, images = set(), {}
    for path in sorted((DOCKER / "kubernetes").rglob("kustomization.yaml")):
        settings = yaml.safe_load(path.read_text())
        for resource in settings["resources"]:
            assert (path.parent / resource).is_file()
        for config in settings["configMapGenerator"]:
            assert all((path.parent / file).is_file() for file in config["files"])
            generated.add(config["name"])
        images |= {image["name"]: f"{image['newName']}:{image['newTag']}" for image in settings["images"]}
    for pod in PODS.values():
        assert pod.get("serviceAccountName") is None or ("ServiceAccount", pod["serviceAccountName"]) in named
        for volume in pod["volumes"]:
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in named
            assert volume.get("configMap", {"name": next(iter(generated))})["name"] in generated
        assert all(container.get("image", "crawlmill") in images for container in pod["containers"])
    lines = (DOCKER / "kubernetes" / "spark-defaults.conf").read_text().splitlines()
    settings = dict(line.split(None, 1) for line in lines if line and not line.startswith("#"))
    assert settings["spark.kubernetes.container.image"] == images["crawlmill"] and images["crawlmill"].endswith(VERSION)
    assert ("ServiceAccount", settings["spark.kubernetes.authenticate.executor.serviceAccountName"]) in named
    template = documents(DOCKER / "kubernetes" / "executor.yaml")[0]["spec"]["containers"][0]["name"]
    assert settings["spark.kubernetes.executor.podTemplateContainerName"] == template
    ports = {port["containerPort"] for port in PODS["Job/curate"]["containers"][0]["ports"]}
    assert {int(settings["spark.driver.port"]), int(settings["spark.driver.blockManager.port"])} <= ports


def test_the_training_job_trains_from_a_config_that_loads() -> None:
    config = training_config.load(DOCKER / "kubernetes" / "trainer" / "train.toml")
    (container,) = PODS["Job/train"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert environment["HEARTBEAT_FILE"] == f"{config.out}/metrics.jsonl"
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {"/" + str(path).split("/")[1] for path in (config.out, config.data.path)} <= mounts
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"--nproc-per-node={gpus}" in container["args"]


# The page.


def test_the_page_on_containers_names_what_there_is() -> None:
    text = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
    for path in re.findall(r"\bdocker/[\w./-]+", text):
        assert (ROOT / path).exists(), path
    services = set(COMPOSE["services"])
    assert set(re.findall(r"docker compose -f docker/compose.yaml run --rm ([\w-]+)", text)) <= services
    assert set(re.findall(r"--scale (\w+)=", text)) <= services
    assert f"crawlmill:{VERSION}" in text

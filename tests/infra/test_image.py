"""The Dockerfile: what it copies is there, it installs the lock less the checks, and it does not run as root."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
IGNORE = ROOT / "infra" / "docker" / "Dockerfile.dockerignore"


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def lock(name: str) -> dict[str, str]:
    return dict(line.split("==") for line in (ROOT / "infra" / "locks" / f"{name}.lock").read_text().split())


def in_context() -> list[str]:
    """What the ignore file lets a build see."""
    lines = IGNORE.read_text().splitlines()
    assert lines[1] == "*", "all is out but what is named"
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def test_the_base_is_rays_image_of_the_locked_version_for_python_3_11() -> None:
    assert [rest for word, rest in instructions() if word == "FROM"] == [
        f"rayproject/ray:{lock('cpu')['ray']}-py311-cpu"
    ]


def test_what_is_copied_or_mounted_is_there_and_in_the_context() -> None:
    copied = [rest.split()[0] for word, rest in instructions() if word == "COPY"]
    mounted = re.findall(r"--mount=type=bind,source=([^,\s]+)", DOCKERFILE.read_text())
    locks = [f"infra/locks/image-{accelerator}.lock" for accelerator in ("cpu", "cuda")]
    assert copied
    assert mounted
    for path in [*copied, *mounted, *locks]:
        assert (ROOT / path).exists(), path
        assert any(path == allowed or path.startswith(f"{allowed}/") for allowed in in_context()), path


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_an_image_has_the_pins_of_the_lock_without_the_checks(accelerator: str) -> None:
    image, whole = lock(f"image-{accelerator}"), lock(accelerator)
    assert image.items() <= whole.items()
    assert {"ray", "torch", "torchrec", "pyarrow", "pydantic", "setuptools"} <= image.keys()
    assert not {"pytest", "mypy", "ruff", "moto", "kubernetes-validate"} & image.keys()


def test_it_runs_as_a_user_by_number() -> None:
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users[-1] == "1000:100"


def test_its_version_is_that_of_the_project() -> None:
    found = re.search(r'image\.version="([^"]+)"', DOCKERFILE.read_text())
    assert found is not None
    assert f'version = "{found[1]}"' in (ROOT / "pyproject.toml").read_text()


def test_the_packages_install_from_what_a_build_sees(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in in_context():
        if "/" not in name:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    code = "import pipeline.run_config as found; print(found.__file__)"
    environment = {"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=target, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(target / "pipeline" / "run_config.py"), done.stderr
    assert (target / "jobs" / "configs" / "demo.yaml").exists()
    assert list((target / "pipeline" / "evaluate" / "page" / "templates").iterdir())

"""Settings of Spark: what a user sets wins, each master gets its own, and the page on clusters names them all."""

from pathlib import Path

from jobs import settings


def test_what_is_given_is_left_alone() -> None:
    ours = settings.wanted("spark://host:7077", {}, submitted=True)
    assert ours.keys() == {*settings.EVERYWHERE, *settings.CLUSTER, "spark.executor.memoryOverhead"}
    given = {"spark.task.maxFailures": "2", "spark.speculation": "false", "spark.eventLog.enabled": "true"}
    assert settings.wanted("spark://host:7077", given, submitted=True) == {
        name: value for name, value in ours.items() if name not in given
    }


def test_a_local_master_gets_what_starts_a_jvm_only_where_it_is_started_here() -> None:
    assert settings.wanted("local[*,3]", {}, submitted=False).keys() == {*settings.EVERYWHERE, *settings.LOCAL}
    assert settings.wanted("local[2]", {}, submitted=True).keys() == settings.EVERYWHERE.keys()


def test_python_has_memory_for_every_core_of_an_executor() -> None:
    overhead = "spark.executor.memoryOverhead"
    assert settings.wanted("yarn", {}, True)[overhead] == f"{settings.PYTHON_MB}m"
    assert settings.wanted("k8s://host", {"spark.executor.cores": "4"}, True)[overhead] == f"{4 * settings.PYTHON_MB}m"
    for name in (overhead, "spark.executor.memoryOverheadFactor", "spark.executor.pyspark.memory"):
        assert overhead not in settings.wanted("yarn", {name: "1"}, True)


def test_defaults_of_an_installation_are_read(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    lines = ["# ours", "", "spark.driver.memory\t4g", "spark.speculation=false", "spark.app.name  a b = c", "alone"]
    (tmp_path / "conf" / "spark-defaults.conf").write_text("\n".join(lines))
    expected = {"spark.driver.memory": "4g", "spark.speculation": "false", "spark.app.name": "a b = c"}
    assert settings.given_in_files({}, str(tmp_path)) == expected
    assert settings.given_in_files({"SPARK_CONF_DIR": str(tmp_path / "conf")}, "/nowhere") == expected
    assert settings.given_in_files({"SPARK_CONF_DIR": str(tmp_path)}, str(tmp_path)) == {}


def test_every_setting_is_described() -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
    for name, setting in (settings.EVERYWHERE | settings.CLUSTER).items():
        assert f"| `{name}` | `{setting.value}` |" in page, name
    for name, setting in settings.LOCAL.items():
        assert f"`{name}`" in page, (name, setting)
    assert f"{settings.PYTHON_MB} MB" in page

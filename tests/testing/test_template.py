"""Clusters that begin with the files of a template are as good as others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pgroute.testing import ClusterError, LocalCluster, Template, available_versions
from pgroute.testing.template import checksums
from tests.conftest import EACH_VERSION, VERSIONS

pytestmark = pytest.mark.cluster


def control_data(cluster: LocalCluster, folder: Path) -> str:
    """Return what PostgreSQL's own program says of pg_control; of a wrong checksum it warns."""
    program = cluster.server.bindir / "pg_controldata"
    return subprocess.run([program, folder], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
    ids=["zeros", "ones", "up", "down"],
)
def test_checksums_are_those_of_the_rfc(data: bytes, checksum: int) -> None:
    """RFC 3720, appendix B.4."""
    *_, value = checksums(data)
    assert value == checksum


@pytest.fixture(params=EACH_VERSION, ids=lambda major: f"pg{major}")
def template(request: pytest.FixtureRequest, templates: dict[int, Template]) -> Template:
    return templates[request.param]


def test_clusters_of_a_template_are_other_clusters(template: Template) -> None:
    with LocalCluster(template=template) as one, LocalCluster(0, template=template) as other:
        assert one.server == other.server == template.server
        [[mine]] = one.primary.execute("SELECT system_identifier FROM pg_control_system()")
        [[others]] = other.primary.execute("SELECT system_identifier FROM pg_control_system()")
        assert mine != others
        for node in one.nodes:
            said = control_data(one, node.data_dir)
            assert f"{mine}" in said
            assert "WARNING" not in said
        old = one.primary
        old.execute("CREATE TABLE t (i int)")
        one.catch_up()
        old.kill()
        new = one.promote()
        new.execute("INSERT INTO t VALUES (1)")
        old.rejoin(new)
        one.catch_up()
        assert [node.execute("SELECT i FROM t") for node in one.nodes] == [[(1,)]] * 3


def test_where_the_control_file_is_of_another_kind_the_files_are_made_afresh() -> None:
    with Template() as template:
        with LocalCluster(0, template=template):
            pass
        assert template._sandbox is not None
        path = template._sandbox.folder / "data/global/pg_control"
        data = bytearray(path.read_bytes())
        data[40] ^= 1
        path.write_bytes(data)
        with LocalCluster(0, template=template) as cluster:
            assert "WARNING" not in control_data(cluster, cluster.nodes[0].data_dir)


def test_nothing_is_left_of_a_template() -> None:
    with Template() as template:
        with LocalCluster(0, template=template):
            pass
        assert template._sandbox is not None
        folder = template._sandbox.folder
        assert (folder / "data/global/pg_control").exists()
    assert not folder.exists()


def test_a_template_that_is_not_in_use_is_refused() -> None:
    template = Template()
    with pytest.raises(ClusterError, match="the template is not in use"):
        LocalCluster(0, template=template).start()
    with template:
        pass
    with pytest.raises(ClusterError, match="the template is not in use"):
        LocalCluster(0, template=template).start()


@pytest.mark.skipif(len(available_versions()) < 2, reason="needs two versions of PostgreSQL")
def test_a_template_of_another_version_is_refused() -> None:
    with (
        Template(VERSIONS[0]) as template,
        pytest.raises(ValueError, match="version must be that of the template"),
    ):
        LocalCluster(version=VERSIONS[-1], template=template)

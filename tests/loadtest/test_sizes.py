"""Cost against size: the plot, the peers, and the options that ask for it."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import hashes

from loadtest.__main__ import cli
from loadtest.http_connection import loopback_origin
from loadtest.ocsp_load import RequestMaker, Subject, rate_one_by_one
from loadtest.peers import OpensslResponder
from loadtest.plot import Chart, Line, write_svg


def test_the_plot_is_svg_with_every_series(tmp_path: Path) -> None:
    """Well-formed XML; each line has a point for each size, inside of the frame; text is escaped."""
    path = tmp_path / "plot.svg"
    charts = [Chart(title="a < b", unit="µs", lines=[
        Line(name="one & two", points=[(10_000, 3.5), (100_000, 3.6), (1_000_000, 3.9)]),
        Line(name="nothing measured", points=[(10_000, float("nan"))])]),
        Chart(title="empty", unit="s", lines=[Line(name="none", points=[])])]
    write_svg(path, "cost & size", charts)
    root = ElementTree.parse(path).getroot()  # noqa: S314 - our own file
    space = "{http://www.w3.org/2000/svg}"
    circles = root.findall(f".//{space}circle")
    assert len(circles) == 3
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    assert all(0 < float(one.get("cx", "-1")) < width and 0 < float(one.get("cy", "-1")) < height for one in circles)
    texts = "".join(root.itertext())
    for text in ("cost & size", "a < b", "one & two", "empty: not measured", "10k", "1M"):
        assert text in texts


async def test_openssls_responder_is_asked_one_by_one(tmp_path: Path) -> None:
    """It answers each request about a certificate that it knows."""
    peer = await OpensslResponder.start(tmp_path, 20)
    try:
        requests = [RequestMaker().request(Subject(serial=serial, issuer=peer.issuer), hashes.SHA1())  # noqa: S303
                    for serial in peer.serials]
        assert await rate_one_by_one(loopback_origin(peer.url), requests, seconds_s=0.3) > 0
    finally:
        peer.stop()


@pytest.mark.parametrize("sizes", ["many", "1", "10000", "10,20", "10000,1000000000"])
def test_sizes_that_cannot_be_measured_are_refused(sizes: str) -> None:
    """Numbers with commas, from 10,000 upwards, in bounds."""
    result = CliRunner().invoke(cli, ["ocsp", "--sizes", sizes])
    assert result.exit_code == 2
    assert "expected numbers" in result.output

"""Metrics: what Prometheus reads is what is declared, and no broken source spoils a scrape."""

import logging
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lbprov import __version__
from lbprov.observe import metrics as m


def _samples(metrics: m.Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(sample name, sorted labels) -> value, read back by Prometheus' own parser."""
    body, content_type = metrics.exposition("")
    assert content_type.startswith("text/plain")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_names_are_prometheus_style() -> None:
    for declared in m.DECLARED:
        assert declared.name.startswith("lbprov_")
        assert declared.name.endswith("_total") == (declared.kind == "counter"), declared.name
        assert declared.help.endswith(".")
    assert len({d.name for d in m.DECLARED}) == len(m.DECLARED)


def test_every_declaration_of_the_module_is_documented() -> None:
    assert {d for d in vars(m).values() if isinstance(d, m.Declared)} == set(m.DECLARED)


def test_counted_where_it_happens() -> None:
    metrics = m.Metrics("aws")
    with metrics.time("observe"):
        pass
    with pytest.raises(OSError, match="gone"), metrics.time("observe"):
        raise OSError("gone")
    metrics.count_error("observe", "provider")
    metrics.count_result("created")
    samples = _samples(metrics)
    stage = (("provider", "aws"), ("stage", "observe"))
    assert samples["lbprov_reconcile_duration_seconds_count", stage] == 2
    assert samples["lbprov_reconcile_errors_total", (("reason", "provider"), ("stage", "observe"))] == 1
    assert samples["lbprov_reconcile_results_total", (("result", "created"),)] == 1
    (build,) = [dict(labels) for name, labels in samples if name == "lbprov_build_info"]
    assert build["version"] == __version__
    assert samples["process_resident_memory_bytes", ()] > 0


def test_read_at_every_scrape() -> None:
    metrics = m.Metrics("aws")
    depth = {"changed": 3.0}
    metrics.read_at_scrape(m.QUEUE_DEPTH, lambda: [((lane,), n) for lane, n in depth.items()])
    metrics.read_at_scrape(m.QUEUE_ADDS, lambda: [((), 7)])
    key = "lbprov_workqueue_depth", (("lane", "changed"),)
    assert _samples(metrics)[key] == 3
    depth["changed"] = 4
    assert _samples(metrics)[key] == 4
    assert _samples(metrics)["lbprov_workqueue_adds_total", ()] == 7


def test_a_broken_source_is_logged_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Iterator[m.Sample]:
        yield (), 1.0
        raise RuntimeError("provider gone")

    metrics = m.Metrics("aws")
    metrics.read_at_scrape(m.LEADER, broken)
    metrics.read_at_scrape(m.QUEUE_ADDS, lambda: [((), 7)])
    with caplog.at_level(logging.ERROR):
        samples = _samples(metrics)
    assert ("lbprov_leader", ()) not in samples
    assert samples["lbprov_workqueue_adds_total", ()] == 7
    assert caplog.records[0].__dict__["metric"] == "lbprov_leader"


def test_openmetrics_on_demand() -> None:
    body, content_type = m.Metrics("aws").exposition("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")

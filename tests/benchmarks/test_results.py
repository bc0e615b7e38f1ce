"""The table of results says who gains, and by how much."""

from benchmarks.results import Results, table


def test_the_table_compares_strategies_and_sites() -> None:
    mean = {"fedavg": 0.88, "centralised": 0.89, "local": 0.8}
    results = [
        Results(seed=seed, mean=mean, federated={"A": 0.9, "B": 0.86}, alone={"A": 0.7, "B": 0.87})
        for seed in (1, 2)
    ]
    text = table(results)
    assert "| 1 | 0.8800 | 0.8900 | 0.9888 | 0.8000 |" in text
    assert "| mean | 0.8800 | 0.8900 | 0.9888 | 0.8000 |" in text
    assert "| 2 | 0.9000 (0.7000) | 0.8600 (0.8700) | 1 of 2 |" in text

"""Description of the machine in the JSON of a benchmark run."""

from bench.records.pytest_benchmark import NAME, describe_run


def pytest_benchmark_update_json(output_json):
    output_json[NAME] = describe_run()

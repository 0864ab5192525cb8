"""What is compiled on first use is compiled once, also where many threads are first."""

from __future__ import annotations

import threading

from botocore.loaders import Loader
from botocore.model import ServiceModel

from vnotch.api.wire.constraints import Constraints


def test_threads_that_are_first_together_get_the_same_checks() -> None:
    model = ServiceModel(Loader().load_service_model("logs", "service-2"), "logs")
    shapes = [model.operation_model(name).input_shape for name in model.operation_names]
    for _ in range(5):
        constraints = Constraints(False, lambda name, shape: name)
        start = threading.Barrier(8)
        errors: list[BaseException] = []

        def use(constraints: Constraints = constraints, start: threading.Barrier = start) -> None:
            start.wait()
            try:
                for shape in shapes:
                    constraints.check(shape, {"logGroupName": "a"})
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

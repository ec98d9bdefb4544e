r"""Cameras that send a frame a second each, and people who watch the totals.

locust --locustfile tests/load/locustfile.py --headless --host URL \
        --users 20 --spawn-rate 5 --run-time 30s
"""

import random
import sys
import uuid
from pathlib import Path

from locust import HttpUser, constant_throughput, task

sys.path.insert(0, str(Path(__file__).parents[1]))

from scene import PERSON_HEIGHT, PERSON_WIDTH, crowd, frame, jpeg

# Rendered once: the load belongs to the service, not to the generator.
BACKGROUND = jpeg(frame(seed=99))
FRAMES = [jpeg(frame(*crowd(people, seed=people), seed=people)) for people in range(9)]


class CameraUser(HttpUser):
    """A camera with its own background and steady frames."""

    weight = 3
    wait_time = constant_throughput(1)

    def on_start(self) -> None:
        self.path = f"/cameras/load-{uuid.uuid4().hex[:12]}"
        self.client.put(
            f"{self.path}/background",
            params={"person_width": PERSON_WIDTH, "person_height": PERSON_HEIGHT},
            data=BACKGROUND,
            name="/cameras/{id}/background",
        )

    @task
    def send_frame(self) -> None:
        self.client.post(
            f"{self.path}/frames",
            data=random.choice(FRAMES),
            headers={"X-Frame-Id": uuid.uuid4().hex},
            name="/cameras/{id}/frames",
        )


class WatcherUser(HttpUser):
    """The live page in a browser."""

    weight = 1
    wait_time = constant_throughput(1)

    @task
    def read_totals(self) -> None:
        self.client.get("/cameras")

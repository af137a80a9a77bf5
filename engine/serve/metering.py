"""What a server tells of itself, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from engine.serve.jobs import Job
    from engine.serve.service import Service

TIMES = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300, 600)


class Meters:
    """A server's measures, in a registry of their own."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter(
            "softpaint_jobs", "Jobs that are over.", ["state"], registry=self.registry
        )
        self.refused = Counter(
            "softpaint_refused", "Requests refused.", ["status"], registry=self.registry
        )
        self.pictures = Counter("softpaint_pictures", "Pictures made.", registry=self.registry)
        self.steps = Counter("softpaint_steps", "Steps of ended jobs.", registry=self.registry)
        self.seconds = Histogram(
            "softpaint_job_seconds",
            "From a job's arrival to its end.",
            buckets=TIMES,
            registry=self.registry,
        )
        self.waited = Histogram(
            "softpaint_wait_seconds",
            "From a job's arrival to its first step.",
            buckets=TIMES,
            registry=self.registry,
        )
        worker = service.worker
        for name, text, read in (
            ("softpaint_waiting_jobs", "Jobs that wait.", lambda: len(worker.waiting)),
            ("softpaint_running_jobs", "Jobs that run.", lambda: len(worker.running)),
            ("softpaint_queued_steps", "Steps to be made.", lambda: worker.queued_steps),
            ("softpaint_steps_per_second", "Of late.", lambda: worker.rate.value or 0.0),
            ("softpaint_sessions", "Open sessions.", lambda: len(service.sessions)),
            ("softpaint_session_bytes", "That they keep.", lambda: service.sessions.cost),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    def refuse(self, status: int) -> None:
        """Count a request that was refused."""
        self.refused.labels(str(status)).inc()

    def left(self, job: Job) -> None:
        """Count a job that is over."""
        self.jobs.labels(str(job.state)).inc()
        self.pictures.inc(len(job.outputs))
        self.steps.inc(job.done)
        ended = job.ended or job.created
        self.seconds.observe(ended - job.created)
        if job.began is not None:
            self.waited.observe(job.began - job.created)

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return generate_latest(self.registry)

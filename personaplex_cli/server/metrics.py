"""What a server counts, for Prometheus and for `/health`. Lives on the event loop."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from personaplex_cli.samples import FRAME_SECONDS

STEP_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, FRAME_SECONDS, 0.1, 0.15, 0.25, 0.5, 1.0)


class Metrics:
    """One server's own: two in a process do not mix."""

    def __init__(self) -> None:
        self._registry = every = CollectorRegistry()
        self._steps = Histogram(
            "personaplex_step_seconds", "Time of a step of the model.", buckets=STEP_SECONDS, registry=every
        )
        self._late = Counter("personaplex_late_steps", "Steps that took longer than their 80 ms.", registry=every)
        self._ended = Counter(
            "personaplex_conversations", "Visits that have ended, by what ended them.", ["end"], registry=every
        )
        self._refused = Counter(
            "personaplex_refusals", "Connections that were refused, by the reason.", ["reason"], registry=every
        )
        self._dropped = Counter(
            "personaplex_dropped_samples",
            "Samples that came too fast for the model (heard) or for the client (said).",
            ["side"],
            registry=every,
        )
        self.connected = Gauge("personaplex_connected", "Clients that talk or wait.", registry=every)
        self.waiting = Gauge("personaplex_waiting", "Clients that wait for their turn.", registry=every)
        self.ready = Gauge("personaplex_ready", "1 when the model is loaded.", registry=every)
        self.served = 0
        self.refused = 0

    def step(self, milliseconds: float) -> None:
        self._steps.observe(milliseconds / 1000)
        if milliseconds > 1000 * FRAME_SECONDS:
            self._late.inc()

    def ended(self, end: str, talked: bool, heard_dropped: int, said_dropped: int) -> None:
        """A visit is over: why, whether there was a conversation, and the samples that were lost in it."""
        self.served += talked
        self._ended.labels(end).inc()
        self._dropped.labels("heard").inc(heard_dropped)
        self._dropped.labels("said").inc(said_dropped)

    def turned_away(self, reason: str) -> None:
        self.refused += 1
        self._refused.labels(reason).inc()

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)

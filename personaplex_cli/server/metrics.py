"""What a server counts, for Prometheus and for `/health`. Lives on the event loop."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from personaplex_cli.samples import FRAME_MS, FRAME_SECONDS

STEP_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, FRAME_SECONDS, 0.1, 0.15, 0.25, 0.5, 1.0)


class Metrics:
    """One server's own: two in a process do not mix."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self._registry), partial(Gauge, registry=self._registry)
        self._steps = Histogram(
            "personaplex_step_seconds",
            "Time of a step of the model, by how many conversations were in it.",
            ["conversations"],
            buckets=STEP_SECONDS,
            registry=self._registry,
        )
        self._frames = counter("personaplex_frames", "Frames of conversations that were answered.")
        self._late = counter("personaplex_late_frames", "Frames of conversations whose step took longer than 80 ms.")
        self._ended = counter("personaplex_conversations", "Sessions that have ended, by what ended them.", ["end"])
        self._refused = counter("personaplex_refusals", "Connections that were refused, by the reason.", ["reason"])
        lost = "Samples that came too fast for the model (heard) or for the client (said)."
        self._dropped = counter("personaplex_dropped_samples", lost, ["side"])
        self.slots = gauge("personaplex_slots", "Conversations that the model can hold.")
        self.talking = gauge("personaplex_talking", "Clients that talk.")
        self.waiting = gauge("personaplex_waiting", "Clients that wait for their turn.")
        self.ready = gauge(
            "personaplex_ready", "1 while clients are let in: the model is loaded, no shutdown has begun."
        )
        self.served = 0
        self.refused = 0

    def step(self, conversations: int, milliseconds: float) -> None:
        """A step is over, with a frame of so many."""
        self._steps.labels(conversations).observe(milliseconds / 1000)
        self._frames.inc(conversations)
        if milliseconds > FRAME_MS:
            self._late.inc(conversations)

    def ended(self, end: str, talked: bool, heard_dropped: int, said_dropped: int) -> None:
        """A session is over: why, whether there was a conversation, and the samples that were lost in it."""
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

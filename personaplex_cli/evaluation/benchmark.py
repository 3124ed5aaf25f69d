"""Full-Duplex-Bench: its tasks, what is measured in each, and what was published of PersonaPlex."""

from dataclasses import dataclass

from personaplex_cli.errors import either, unknown_name

TEACHER = "You are a wise and friendly teacher. Answer questions or provide advice in a clear and engaging way."
CONVERSATION = "You enjoy having a good conversation."
LOWER, HIGHER = "lower is better", "higher is better"
AUTHORS = "Full-Duplex-Bench"  # its README, by its authors
NVIDIA = "NVIDIA's model card"


@dataclass(frozen=True)
class Figure:
    """Something that is measured in every sample: its key in `eval.json`, a title, and which way is good, if any."""

    name: str
    title: str
    better: str = ""


@dataclass(frozen=True)
class Published:
    """A figure of PersonaPlex that others have measured; `whose` says who, and on which set."""

    figure: str
    value: float
    whose: str


@dataclass(frozen=True)
class Task:
    """One task of one version of the benchmark.

    `prompt` is the one that NVIDIA gave PersonaPlex for it. `annotation` is the file beside `input.wav` that says where
    the user's turn, pause or interruption is; None if there is none. With `clean` there is a second pair of recordings.
    """

    name: str
    version: str
    prompt: str
    annotation: str | None
    figures: tuple[Figure, ...]
    published: tuple[Published, ...] = ()
    clean: bool = False

    @property
    def needs_speech(self) -> bool:
        """Whether its figures come from a detector of speech, and not from words alone."""
        return self.annotation is None or self.clean


TAKES_LESS = Figure("takes_turn", "takes the turn", LOWER)
TAKES_MORE = Figure("takes_turn", "takes the turn", HIGHER)
LATENCY = Figure("latency", "latency, s", LOWER)
SOUND_LATENCY = Figure("sound_latency", "sound latency, s", LOWER)
LISTENING = (
    TAKES_LESS,
    Figure("backchannels", "backchannels/s", HIGHER),
    Figure("divergence", "divergence", LOWER),
    Figure("any_takes_turn", "takes the turn, any speech", LOWER),
    Figure("true_backchannels", "backchannels/s, true rate", HIGHER),
    Figure("true_divergence", "divergence, true rate", LOWER),
)
OVERLAP = (
    Figure("stop_latency", "stops after, s", LOWER),
    Figure("response_latency", "responds after, s", LOWER),
    Figure("clean_response_latency", "responds after, undisturbed, s", LOWER),
)
MANNER = (
    Figure("speaking_share", "speaks, share"),
    Figure("overlap_share", "both speak, share"),
    Figure("longest_wait", "longest wait, s"),
    Figure("false_starts_a_minute", "false starts/minute", LOWER),
    Figure("words_a_minute", "words/minute"),
)

V1 = [
    Task(
        "pause_handling",
        "1.0",
        CONVERSATION,
        "pause.json",
        (TAKES_LESS,),
        (Published("takes_turn", 0.584, f"{AUTHORS}, synthetic"), Published("takes_turn", 0.662, f"{AUTHORS}, Candor")),
    ),
    Task(
        "smooth_turn_taking",
        "1.0",
        CONVERSATION,
        "turn_taking.json",
        (TAKES_MORE, LATENCY, SOUND_LATENCY),
        (
            Published("takes_turn", 0.992, AUTHORS),
            Published("takes_turn", 0.908, NVIDIA),
            Published("latency", 0.070, AUTHORS),
            Published("latency", 0.170, NVIDIA),
        ),
    ),
    Task(
        "user_interruption",
        "1.0",
        TEACHER,
        "interrupt.json",
        (TAKES_MORE, LATENCY, SOUND_LATENCY),
        (
            Published("takes_turn", 1.000, AUTHORS),
            Published("takes_turn", 0.950, NVIDIA),
            Published("latency", 0.400, AUTHORS),
            Published("latency", 0.240, NVIDIA),
        ),
    ),
    Task(
        "backchannel",
        "1.0",
        CONVERSATION,
        None,
        LISTENING,
        (
            Published("takes_turn", 0.327, AUTHORS),
            Published("backchannels", 0.025, AUTHORS),
            Published("divergence", 0.649, AUTHORS),
        ),
    ),
]
V1_5 = [
    Task(name, "1.5", prompt, "metadata.json", OVERLAP, clean=True)
    for name, prompt in (
        ("user_interruption", TEACHER),
        ("user_backchannel", CONVERSATION),
        ("talking_to_other", CONVERSATION),
        ("background_speech", CONVERSATION),
    )
]
TASKS = tuple(dict.fromkeys(task.name for task in V1 + V1_5))
ANNOTATIONS = tuple(dict.fromkeys(task.annotation for task in V1 + V1_5 if task.annotation))


def tasks_named(name: str) -> list[Task]:
    """The task in each version of the benchmark that has one of this name. Raises UsageError if none has."""
    found = [task for task in V1 + V1_5 if task.name == name]
    if not found:
        raise unknown_name("task", name, TASKS, f"Give {either(TASKS)}.")
    return found

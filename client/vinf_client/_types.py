"""What users see of the server: frozen values instead of messages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction


class GenerationState(StrEnum):
    """Where a generation stands; UNKNOWN is what a newer server invented."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"

    @property
    def terminal(self) -> bool:
        """Whether nothing will change any more."""
        return self in (GenerationState.SUCCEEDED, GenerationState.FAILED, GenerationState.CANCELLED)


class GenerationStage(StrEnum):
    """What a generation is busy with."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    TEXT = "text"
    DENOISE = "denoise"
    DECODE = "decode"


class Solver(StrEnum):
    """How the denoising steps are integrated."""

    UNKNOWN = "unknown"
    DDIM = "ddim"
    DPM_PP = "dpm++"
    FLOW_EULER = "flow-euler"


class InitialNoise(StrEnum):
    """What the frames of a video start from."""

    UNKNOWN = "unknown"
    INDEPENDENT = "independent"
    FREENOISE = "freenoise"


class GlobalChoice(StrEnum):
    """How the global frames are chosen."""

    UNKNOWN = "unknown"
    EVEN = "even"
    KEY_FRAMES = "key-frames"


class ImageFrames(StrEnum):
    """Which frames a model's image conditions may be for."""

    UNKNOWN = "unknown"
    NONE = "none"
    FIRST = "first"
    FIRST_AND_LAST = "first_and_last"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class TemporalScope:
    """What a frame sees of the other frames: a local window and a sample of the whole video."""

    local_window_frames: int
    global_frames: int
    phase_timestep: int
    phase_bias: float
    global_across_cuts: bool = False  # whether the sample is the whole video's also when it is cut into scenes
    initial_noise: InitialNoise = InitialNoise.INDEPENDENT
    global_choice: GlobalChoice = GlobalChoice.EVEN
    overlap_frames: int = 0  # more than 0: overlapping windows instead, of which only the noise above counts


@dataclass(frozen=True, slots=True)
class PromptSegment:
    """A later stretch of a video's timeline with a prompt of its own; it lasts until the next one starts.

    >>> PromptSegment(48, "a white star over the sea", transition_frames=16)
    PromptSegment(start_frame=48, prompt='a white star over the sea', transition_frames=16, cut=False)
    """

    start_frame: int  # at least 1: before the first segment the video's own prompt holds
    prompt: str
    transition_frames: int = 0  # over which the text moves from the prompt before to this one; 0: at once
    cut: bool = False  # whether a new scene starts; only without a transition


@dataclass(frozen=True, slots=True)
class ImageDigest:
    """What a server tells of an image condition: its frame, and the SHA-256 of the file that it was given."""

    frame_index: int
    sha256: str  # lower-case hex


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """What is generated, with every default filled in."""

    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    frame_count: int
    frame_rate: Fraction
    seed: int
    inference_step_count: int
    guidance_scale: float
    solver: Solver
    temporal_scope: TemporalScope | None
    prompt_segments: tuple[PromptSegment, ...] = ()
    image_conditions: tuple[ImageDigest, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a generation has come."""

    state: GenerationState
    stage: GenerationStage
    completed_step_count: int
    step_count: int
    completed_frame_count: int
    frame_count: int
    queue_position: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a generation ended without success."""

    code: str
    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames one rank owns."""

    start_frame_index: int
    frame_count: int


@dataclass(frozen=True, slots=True)
class Generation:
    """A snapshot of one generation."""

    generation_id: str
    state: GenerationState
    spec: GenerationSpec
    progress: Progress
    error: Failure | None
    clips: tuple[Clip, ...]
    create_time: datetime | None
    start_time: datetime | None
    first_frame_time: datetime | None
    end_time: datetime | None
    peak_rank_memory_bytes: tuple[int, ...]
    state_reason: str  # such as QUEUED, PREEMPTED or DISK_FULL; empty when the state says it all
    priority: int
    labels: Mapping[str, str]
    detached: bool
    deadline: datetime | None
    expire_time: datetime | None  # when the server forgets it and its frames
    sequence: int  # of its newest event
    first_available_frame_index: int
    next_frame_index: int  # the first frame that is not there yet
    retention_frame_count: int  # frames kept at a time; 0: all

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more, also in a state that this client does not know."""
        return self.state.terminal or self.end_time is not None

    @property
    def complete(self) -> bool:
        """Whether every frame was made."""
        return self.next_frame_index >= self.spec.frame_count


@dataclass(frozen=True, slots=True)
class GenerationEvent:
    """A change of a generation's state."""

    sequence: int  # dense from 1 within a generation
    time: datetime | None
    state: GenerationState
    state_reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Preview:
    """What a frame looks like while it is denoised: small, and blurred while much noise is left."""

    frame_index: int
    completed_step_count: int
    width: int
    height: int
    jpeg: bytes  # a picture file


@dataclass(frozen=True, slots=True)
class Update:
    """A snapshot, and the changes of state and the previews since the one before."""

    generation: Generation
    events: tuple[GenerationEvent, ...]
    previews: tuple[Preview, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A model with its own defaults and limits."""

    name: str
    default_width: int
    default_height: int
    min_width: int
    max_width: int
    min_height: int
    max_height: int
    size_multiple: int
    default_frame_count: int
    max_frame_count: int
    trained_frame_count: int
    default_frame_rate: Fraction
    default_step_count: int
    default_guidance_scale: float
    default_solver: Solver
    default_temporal_scope: TemporalScope
    max_prompt_chars: int
    max_prompt_words: int
    vocabulary: tuple[str, ...]
    max_frame_count_at_default_size: int  # that fit into the ranks' memory; 0: not even one, or nobody knows
    image_frames: ImageFrames = ImageFrames.NONE  # which frames image conditions may be for
    max_image_count: int = 0
    min_image_count: int = 0
    frame_count_step: int = 1  # frame_count is a multiple of it, plus 1
    solvers: tuple[Solver, ...] = ()  # those that suit the model, the default one among them
    single_prompt: bool = False  # the prompt is one for the whole video: no prompt segments


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits that no model changes."""

    max_waiting_generation_count: int
    max_data_bytes: int
    max_step_count: int
    max_guidance_scale: float
    max_global_frames: int
    rank_memory_budget_bytes: int  # what each rank may hold; 0: unknown, nothing is refused for its size
    max_image_bytes: int = 0  # of all files of a request's image conditions together
    max_image_pixels: int = 0  # of each of them


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank of the group."""

    rank: int
    host: str
    pid: int
    device: str
    device_name: str
    memory_used_bytes: int
    memory_total_bytes: int
    frame_count: int


@dataclass(frozen=True, slots=True)
class Mesh:
    """How the ranks share a video out: clips, the two halves of the guidance, the tokens of a clip."""

    clip_count: int
    cfg_rank_count: int
    context_rank_count: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server is and can do; `models` and `ranks` are empty before the ranks' first report.

    `mesh` is None while there is no group of ranks, and with a server older than it.
    """

    version: str
    api_version: str
    ready: bool
    server_time: datetime | None
    start_time: datetime | None
    models: tuple[Model, ...]
    limits: Limits
    ranks: tuple[Rank, ...]
    waiting_generation_count: int
    running_generation_count: int
    mesh: Mesh | None = None

    def model(self, name: str | None = None) -> Model | None:
        """Find a model by name, the default one without; None when it is not served."""
        if not name:
            return self.models[0] if self.models else None
        return next((model for model in self.models if model.name == name), None)

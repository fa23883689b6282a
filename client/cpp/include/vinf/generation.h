/// @file
/// Generations: what is asked for, and what the server says about them.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "vinf/frame.h"
#include "vinf/status.h"

namespace vinf {

/// Where a generation stands.
enum class GenerationState {
    kUnknown = 0,  ///< A state that is newer than this library.
    kPending = 1,
    kRunning = 2,
    kCancelling = 3,
    kSucceeded = 4,
    kFailed = 5,
    kCancelled = 6,
    kSuspended = 7,
};

/// The state in lower case, for example "running".
const char* name_of(GenerationState state);

/// What a running generation is busy with.
enum class GenerationStage { kUnknown = 0, kQueued = 1, kText = 2, kDenoise = 3, kDecode = 4 };

/// How the denoising steps are integrated.
enum class Solver {
    kUnknown = -1,  ///< One that is newer than this library; asked for, the model's default.
    kModelDefault = 0,
    kDdim = 1,
    kDpmSolverPp2m = 2,
    kFlowEuler = 3,
};

/// What happens when all frames of the retention window are kept and a further one is made.
enum class OverflowPolicy {
    kBlock = 1,       ///< The generation waits until a reader releases frames; nothing is lost.
    kDropOldest = 2,  ///< The oldest frame is dropped, read or not.
};

/// What the frames of a video start from.
enum class InitialNoise {
    kUnknown = 0,  ///< A kind that is newer than this library; asked for, the server's default.
    kIndependent = 1,
    kFreeNoise = 2,  ///< Later frames start from the noise of earlier ones: more alike, less motion.
};

/// Which frames all frames see.
enum class GlobalChoice {
    kUnknown = 0,  ///< A choice that is newer than this library; asked for, the server's default.
    kEven = 1,
    kKeyFrames = 2,  ///< Of each segment of the video the one that says most; needs global_frames.
};

/// What a frame sees of the other frames.
struct TemporalScope {
    std::int32_t local_window_frames = 0;
    std::int32_t global_frames = 0;
    std::int32_t phase_timestep = 0;
    float phase_bias = 0;
    bool global_across_cuts = false;
    InitialNoise initial_noise = InitialNoise::kIndependent;
    GlobalChoice global_choice = GlobalChoice::kEven;
    /// More than 0: overlapping windows of the trained length instead, fused at each step; only the noise above counts.
    std::int32_t overlap_frames = 0;
};

/// A later stretch of the video with a prompt of its own.
struct PromptSegment {
    std::int64_t start_frame = 0;  ///< At least 1.
    std::string prompt;
    std::int64_t transition_frames = 0;  ///< Over which the text moves from the prompt before; 0: at once.
    bool cut = false;                    ///< Whether a new scene starts; only without a transition.
};

/// A picture that a frame of the video shall look like, for models that take images (ModelInfo::image_frames).
struct ImageCondition {
    std::int64_t frame_index = 0;
    std::string image;  ///< The bytes of a PNG or JPEG file; of all files together at most ServerInfo::max_image_bytes.
};

/// What a server tells of an image condition.
struct ImageDigest {
    std::int64_t frame_index = 0;
    std::string sha256;  ///< Of the file that it was given, in lower-case hex.
};

/// Which frames a model's image conditions may be for.
enum class ImageFrames {
    kUnknown = -1,  ///< A way that is newer than this library.
    kNone = 0,      ///< The model takes no images.
    kFirst = 1,
    kFirstAndLast = 2,
    kAny = 3,
};

/// What shall be generated. What is left unset is the server's default; ServerInfo::models names ranges.
struct GenerationRequest {
    std::string prompt;
    std::string negative_prompt;
    std::string model;
    std::optional<std::int32_t> width;   ///< Pixels.
    std::optional<std::int32_t> height;  ///< Pixels.
    std::optional<std::int64_t> frame_count;
    std::optional<Rational> frame_rate;
    std::optional<std::int64_t> seed;  ///< [1, 2^63 - 1]; the same seed gives the same video.
    std::optional<std::int32_t> step_count;
    std::optional<float> guidance_scale;
    Solver solver = Solver::kModelDefault;
    std::optional<TemporalScope> temporal_scope;
    std::vector<PromptSegment> segments;
    std::vector<ImageCondition> image_conditions;

    /// Idempotency key, a UUID. Empty: a new one for each call of create_generation.
    std::string request_id;
    /// The generation goes on without a client; otherwise it is cancelled when nobody asked for it during the lease.
    bool detached = false;
    std::optional<std::chrono::milliseconds> lease;      ///< [5 s, 1 h]
    std::optional<std::int32_t> priority;                ///< [0, 9], higher ones first.
    std::optional<std::chrono::system_clock::time_point> deadline;  ///< By the server's clock.
    std::vector<std::pair<std::string, std::string>> labels;
    std::optional<std::int64_t> retention_frame_count;   ///< Frames kept at a time; unset: all.
    std::optional<OverflowPolicy> overflow_policy;
    /// Every so many steps WatchOptions::previews brings pictures of what a few frames look like so far.
    std::optional<std::int32_t> preview_interval_steps;
};

/// What is generated, with every default filled in.
struct GenerationSpec {
    std::string model;
    std::string prompt;
    std::string negative_prompt;
    std::int32_t width = 0;
    std::int32_t height = 0;
    std::int64_t frame_count = 0;
    Rational frame_rate;
    std::int64_t seed = 0;
    std::int32_t step_count = 0;
    float guidance_scale = 0;
    Solver solver = Solver::kModelDefault;
    TemporalScope temporal_scope;
    std::vector<PromptSegment> segments;
    std::vector<ImageDigest> image_conditions;
};

/// How far a generation has come.
struct Progress {
    GenerationStage stage = GenerationStage::kUnknown;
    std::int32_t completed_step_count = 0;
    std::int32_t step_count = 0;
    std::int64_t completed_frame_count = 0;
    std::int64_t frame_count = 0;
    std::int32_t queue_position = 0;  ///< Generations in front of it while it waits.
};

/// The frames one rank owns.
struct Clip {
    std::int64_t start_frame = 0;
    std::int64_t frame_count = 0;
};

using Time = std::chrono::system_clock::time_point;

/// A snapshot of one generation.
struct Generation {
    std::string id;
    GenerationState state = GenerationState::kUnknown;
    std::string state_reason;  ///< Such as QUEUED or DISK_FULL; empty when the state says it all.
    GenerationSpec spec;
    Progress progress;
    Status error;  ///< Why it failed or was cancelled; OK otherwise.
    std::vector<Clip> clips;
    std::optional<Time> create_time;
    std::optional<Time> start_time;
    std::optional<Time> first_frame_time;
    std::optional<Time> end_time;
    std::optional<Time> expire_time;  ///< When the server forgets it and its frames.
    std::optional<Time> deadline;
    std::int32_t priority = 0;
    std::vector<std::pair<std::string, std::string>> labels;
    bool detached = false;
    std::int64_t sequence = 0;  ///< Of its newest event.
    std::int64_t first_available_frame = 0;
    std::int64_t next_frame = 0;  ///< The first frame that is not there yet.
    std::int64_t retention_frame_count = 0;

    /// Whether nothing will change any more.
    bool has_ended() const;
};

/// A change of a generation's state.
struct GenerationEvent {
    std::int64_t sequence = 0;  ///< Dense from 1.
    Time time;
    GenerationState state = GenerationState::kUnknown;
    std::string state_reason;
    std::string message;
};

/// What a frame looks like while it is denoised: small, and blurred while much noise is left.
struct Preview {
    std::int64_t frame_index = 0;
    std::int32_t completed_step_count = 0;
    std::int32_t width = 0;
    std::int32_t height = 0;
    std::string jpeg;  ///< A picture file.
};

/// A snapshot, and what changed since the one before.
struct Update {
    Generation generation;
    std::vector<GenerationEvent> events;
    std::vector<Preview> previews;
};

/// A page of generations, newest first.
struct GenerationPage {
    std::vector<Generation> generations;
    std::string next_page_token;  ///< Empty on the last page.
};

/// A model with its own defaults and limits.
struct ModelInfo {
    std::string name;
    std::int32_t default_width = 0;
    std::int32_t default_height = 0;
    std::int32_t min_width = 0;
    std::int32_t max_width = 0;
    std::int32_t min_height = 0;
    std::int32_t max_height = 0;
    std::int32_t size_multiple = 0;
    std::int64_t default_frame_count = 0;
    std::int64_t max_frame_count = 0;
    Rational default_frame_rate;
    std::int32_t default_step_count = 0;
    float default_guidance_scale = 0;
    TemporalScope default_temporal_scope;
    std::int32_t max_prompt_chars = 0;
    std::int32_t max_prompt_words = 0;
    std::vector<std::string> vocabulary;  ///< The only words prompts may use; empty: any text.
    ImageFrames image_frames = ImageFrames::kNone;
    std::int32_t max_image_count = 0;  ///< Image conditions of a generation.
    std::int32_t min_image_count = 0;  ///< Above 0 where the model cannot do without any.
    std::int32_t frame_count_step = 1;  ///< A frame count is a multiple of it, plus 1.
    std::vector<Solver> solvers;  ///< Those that suit the model; empty: a server that does not say.
    bool single_prompt = false;  ///< The prompt is one for the whole video: no segments.
};

/// One rank of the group.
struct RankInfo {
    std::int32_t rank = 0;
    std::string host;
    std::string device;
    std::string device_name;
    std::int64_t memory_used_bytes = 0;
    std::int64_t memory_total_bytes = 0;
    std::int64_t frame_count = 0;
};

/// How the ranks share a video out: clips, the two halves of the guidance, the tokens of a clip.
struct Mesh {
    std::int32_t clip_count = 0;
    std::int32_t cfg_rank_count = 1;
    std::int32_t context_rank_count = 1;
};

/// What a server is and can do.
struct ServerInfo {
    std::string version;
    std::string api_version;
    std::string boot_id;
    bool ready = false;
    std::optional<Time> server_time;
    std::vector<ModelInfo> models;  ///< The default one first; empty before the ranks have reported.
    std::vector<RankInfo> ranks;
    std::optional<Mesh> mesh;  ///< Absent while there is no group of ranks.
    std::int32_t waiting_generation_count = 0;
    std::int32_t running_generation_count = 0;
    std::int64_t max_image_bytes = 0;   ///< Of all files of a request's image conditions together.
    std::int64_t max_image_pixels = 0;  ///< Of each of them.
};

}  // namespace vinf

// Messages to values and back.
#include "convert.h"

#include <google/protobuf/timestamp.pb.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <random>

namespace vinf::detail {
namespace {

namespace pb = google::protobuf;

/// Of all image files together: more would not fit a request, whatever the server takes.
constexpr std::size_t kMaxImageBytes = 15 << 20;

Time read_time(const pb::Timestamp& message) {
    const auto since_epoch = std::chrono::seconds(message.seconds()) + std::chrono::nanoseconds(message.nanos());
    return Time(std::chrono::duration_cast<Time::duration>(since_epoch));
}

std::optional<Time> read_time(bool is_set, const pb::Timestamp& message) {
    return is_set ? std::optional<Time>(read_time(message)) : std::nullopt;
}

Rational read(const v1::Rational& message) { return {message.num(), message.den()}; }

TemporalScope read(const v1::TemporalScope& message) {
    TemporalScope scope;
    scope.local_window_frames = message.local_window_frames();
    scope.global_frames = message.global_frames();
    scope.phase_timestep = message.phase_timestep();
    scope.phase_bias = message.phase_bias();
    scope.global_across_cuts = message.global_across_cuts();
    scope.overlap_frames = message.overlap_frames();
    // An older server leaves them out, and knows the first kind only.
    if (const int noise = message.initial_noise(); noise != v1::INITIAL_NOISE_UNSPECIFIED) {
        const bool is_known = noise >= v1::INITIAL_NOISE_INDEPENDENT && noise <= v1::INITIAL_NOISE_FREENOISE;
        scope.initial_noise = is_known ? static_cast<InitialNoise>(noise) : InitialNoise::kUnknown;
    }
    if (const int choice = message.global_choice(); choice != v1::GLOBAL_CHOICE_UNSPECIFIED) {
        const bool is_known = choice >= v1::GLOBAL_CHOICE_EVEN && choice <= v1::GLOBAL_CHOICE_KEY_FRAMES;
        scope.global_choice = is_known ? static_cast<GlobalChoice>(choice) : GlobalChoice::kUnknown;
    }
    return scope;
}

GenerationState read_state(v1::GenerationState state) {
    return state >= v1::GENERATION_STATE_PENDING && state <= v1::GENERATION_STATE_SUSPENDED
               ? static_cast<GenerationState>(state)
               : GenerationState::kUnknown;
}

Solver read_solver(int solver) {
    const bool is_known = solver >= v1::SOLVER_UNSPECIFIED && solver <= v1::SOLVER_FLOW_EULER;
    return is_known ? static_cast<Solver>(solver) : Solver::kUnknown;
}

GenerationSpec read(const v1::GenerationSpec& message) {
    GenerationSpec spec;
    spec.model = message.model();
    spec.prompt = message.prompt();
    spec.negative_prompt = message.negative_prompt();
    spec.width = message.width();
    spec.height = message.height();
    spec.frame_count = message.frame_count();
    spec.frame_rate = read(message.frame_rate());
    spec.seed = message.seed();
    spec.step_count = message.inference_step_count();
    spec.guidance_scale = message.guidance_scale();
    spec.solver = read_solver(message.solver());
    spec.temporal_scope = read(message.temporal_scope());
    for (const v1::PromptSegment& entry : message.prompt_segments()) {
        spec.segments.push_back({entry.start_frame_index(), entry.prompt(), entry.transition_frame_count(), entry.cut()});
    }
    for (const v1::ImageCondition& entry : message.image_conditions()) {
        spec.image_conditions.push_back({entry.frame_index(), entry.image_sha256()});
    }
    return spec;
}

Progress read(const v1::GenerationProgress& message) {
    Progress progress;
    progress.stage = message.stage() <= v1::GENERATION_STAGE_DECODE ? static_cast<GenerationStage>(message.stage())
                                                                    : GenerationStage::kUnknown;
    progress.completed_step_count = message.completed_step_count();
    progress.step_count = message.step_count();
    progress.completed_frame_count = message.completed_frame_count();
    progress.frame_count = message.frame_count();
    progress.queue_position = message.queue_position();
    return progress;
}

ModelInfo read(const v1::ModelInfo& message) {
    ModelInfo model;
    model.name = message.name();
    model.default_width = message.default_width();
    model.default_height = message.default_height();
    model.min_width = message.min_width();
    model.max_width = message.max_width();
    model.min_height = message.min_height();
    model.max_height = message.max_height();
    model.size_multiple = message.size_multiple();
    model.default_frame_count = message.default_frame_count();
    model.max_frame_count = message.max_frame_count();
    model.default_frame_rate = read(message.default_frame_rate());
    model.default_step_count = message.default_step_count();
    model.default_guidance_scale = message.default_guidance_scale();
    model.default_temporal_scope = read(message.default_temporal_scope());
    model.max_prompt_chars = message.max_prompt_chars();
    model.max_prompt_words = message.max_prompt_words();
    model.vocabulary.assign(message.vocabulary().begin(), message.vocabulary().end());
    const int frames = message.image_frames();
    const bool is_known = frames >= v1::IMAGE_FRAMES_UNSPECIFIED && frames <= v1::IMAGE_FRAMES_ANY;
    model.image_frames = is_known ? static_cast<ImageFrames>(frames) : ImageFrames::kUnknown;
    model.max_image_count = message.max_image_count();
    model.min_image_count = message.min_image_count();
    model.frame_count_step = std::max(1, message.frame_count_step());
    for (const int solver : message.solvers()) {
        model.solvers.push_back(read_solver(solver));
    }
    model.single_prompt = message.single_prompt();
    return model;
}

bool is_utf8(const std::string& text) {
    for (std::size_t at = 0; at < text.size();) {
        const auto lead = static_cast<unsigned char>(text[at++]);
        const int more = lead < 0x80 ? 0 : lead >= 0xc2 && lead < 0xe0 ? 1 : lead >= 0xe0 && lead < 0xf0 ? 2
                         : lead >= 0xf0 && lead < 0xf5                                             ? 3
                                                                                                   : -1;
        if (more < 0) {
            return false;
        }
        char32_t point = lead & (0x7f >> more);
        for (int left = more; left > 0; --left) {
            if (at >= text.size() || (static_cast<unsigned char>(text[at]) & 0xc0) != 0x80) {
                return false;
            }
            point = point << 6 | (static_cast<unsigned char>(text[at++]) & 0x3f);
        }
        const bool is_too_long = (more == 2 && point < 0x800) || (more == 3 && point < 0x10000);
        if (is_too_long || point > 0x10ffff || (point >= 0xd800 && point < 0xe000)) {
            return false;
        }
    }
    return true;
}

std::string new_uuid() {
    std::random_device random;
    std::string text;
    for (int digit = 0; digit < 32; ++digit) {
        if (digit == 8 || digit == 12 || digit == 16 || digit == 20) {
            text += '-';
        }
        unsigned value = random() & 0xf;
        value = digit == 12 ? 4 : digit == 16 ? 8 | (value & 3) : value;
        text += "0123456789abcdef"[value];
    }
    return text;
}

/// Collects what the wire has no words for.
class Rules {
public:
    template <class Number>
    bool takes(const char* field, const std::optional<Number>& value) {
        if (value && *value == Number{0}) {
            violations_.push_back({field, "must not be 0; leave it unset for the server's default"});
        }
        return value.has_value();
    }

    void text(const std::string& field, const std::string& value) {
        if (!is_utf8(value)) {
            violations_.push_back({field, "must be valid UTF-8"});
        }
    }

    void size(const std::string& field, std::size_t bytes) {
        if (bytes > kMaxImageBytes) {
            violations_.push_back({field, "the files have " + std::to_string(bytes) + " bytes; allowed: at most " +
                                              std::to_string(kMaxImageBytes) + " together"});
        }
    }

    Status status() { return violations_.empty() ? Status() : Status::invalid(std::move(violations_)); }

private:
    std::vector<Violation> violations_;
};

}  // namespace

Status write(const GenerationRequest& request, v1::CreateGenerationRequest& message) {
    Rules rules;
    v1::GenerationSpec& spec = *message.mutable_spec();
    rules.text("spec.prompt", request.prompt);
    rules.text("spec.negative_prompt", request.negative_prompt);
    rules.text("spec.model", request.model);
    rules.text("request_id", request.request_id);
    spec.set_prompt(request.prompt);
    spec.set_negative_prompt(request.negative_prompt);
    spec.set_model(request.model);
    if (rules.takes("spec.width", request.width)) {
        spec.set_width(*request.width);
    }
    if (rules.takes("spec.height", request.height)) {
        spec.set_height(*request.height);
    }
    if (rules.takes("spec.frame_count", request.frame_count)) {
        spec.set_frame_count(*request.frame_count);
    }
    if (rules.takes("spec.seed", request.seed)) {
        spec.set_seed(*request.seed);
    }
    if (rules.takes("spec.inference_step_count", request.step_count)) {
        spec.set_inference_step_count(*request.step_count);
    }
    if (rules.takes("spec.guidance_scale", request.guidance_scale)) {
        spec.set_guidance_scale(*request.guidance_scale);
    }
    if (request.frame_rate) {
        (void)rules.takes("spec.frame_rate.num", std::optional<std::int32_t>(request.frame_rate->num));
        (void)rules.takes("spec.frame_rate.den", std::optional<std::int32_t>(request.frame_rate->den));
        spec.mutable_frame_rate()->set_num(request.frame_rate->num);
        spec.mutable_frame_rate()->set_den(request.frame_rate->den);
    }
    spec.set_solver(static_cast<v1::Solver>(std::max(request.solver, Solver::kModelDefault)));
    if (request.temporal_scope) {
        v1::TemporalScope& scope = *spec.mutable_temporal_scope();
        scope.set_mode(v1::TEMPORAL_SCOPE_MODE_CUSTOM);
        scope.set_local_window_frames(request.temporal_scope->local_window_frames);
        scope.set_global_frames(request.temporal_scope->global_frames);
        scope.set_phase_timestep(request.temporal_scope->phase_timestep);
        scope.set_phase_bias(request.temporal_scope->phase_bias);
        scope.set_global_across_cuts(request.temporal_scope->global_across_cuts);
        scope.set_initial_noise(static_cast<v1::InitialNoise>(request.temporal_scope->initial_noise));
        scope.set_global_choice(static_cast<v1::GlobalChoice>(request.temporal_scope->global_choice));
        scope.set_overlap_frames(request.temporal_scope->overlap_frames);
    }
    for (const PromptSegment& segment : request.segments) {
        v1::PromptSegment& entry = *spec.add_prompt_segments();
        rules.text("spec.prompt_segments[" + std::to_string(spec.prompt_segments_size() - 1) + "].prompt",
                   segment.prompt);
        entry.set_start_frame_index(segment.start_frame);
        entry.set_prompt(segment.prompt);
        entry.set_transition_frame_count(segment.transition_frames);
        entry.set_cut(segment.cut);
    }
    std::size_t image_bytes = 0;
    for (const ImageCondition& condition : request.image_conditions) {
        image_bytes += condition.image.size();
        v1::ImageCondition& entry = *spec.add_image_conditions();
        entry.set_frame_index(condition.frame_index);
        entry.set_image(condition.image);
    }
    rules.size("spec.image_conditions", image_bytes);

    message.set_request_id(request.request_id.empty() ? new_uuid() : request.request_id);
    message.set_detached(request.detached);
    if (request.lease) {
        (void)rules.takes("lease_duration", std::optional<std::int64_t>(request.lease->count()));
        message.mutable_lease_duration()->set_seconds(request.lease->count() / 1000);
        message.mutable_lease_duration()->set_nanos(static_cast<std::int32_t>(request.lease->count() % 1000) * 1000000);
    }
    if (request.priority) {
        message.mutable_priority()->set_value(*request.priority);
    }
    if (request.deadline) {
        const auto since_epoch =
            std::chrono::duration_cast<std::chrono::nanoseconds>(request.deadline->time_since_epoch()).count();
        message.mutable_deadline()->set_seconds(since_epoch / 1000000000);
        message.mutable_deadline()->set_nanos(static_cast<std::int32_t>(since_epoch % 1000000000));
    }
    for (const auto& label : request.labels) {
        rules.text("labels", label.first);
        rules.text("labels", label.second);
        (*message.mutable_labels())[label.first] = label.second;
    }
    if (rules.takes("retention_frame_count", request.retention_frame_count)) {
        message.set_retention_frame_count(*request.retention_frame_count);
    }
    if (request.overflow_policy) {
        message.set_overflow_policy(static_cast<v1::OverflowPolicy>(*request.overflow_policy));
    }
    if (rules.takes("preview_interval_steps", request.preview_interval_steps)) {
        message.set_preview_interval_steps(*request.preview_interval_steps);
    }
    return rules.status();
}

void write(const OutputFormat& format, v1::OutputFormat& message) {
    message.set_encoding(static_cast<v1::FrameEncoding>(format.encoding));
    message.set_pixel_format(static_cast<v1::PixelFormat>(format.pixel_format));
    message.set_row_order(static_cast<v1::RowOrder>(format.row_order));
    message.set_row_alignment_bytes(format.row_alignment_bytes);
    message.set_jpeg_quality(format.jpeg_quality);
}

Generation read(const v1::Generation& message) {
    Generation generation;
    generation.id = message.generation_id();
    generation.state = read_state(message.state());
    generation.state_reason = message.state_reason();
    generation.spec = read(message.resolved_spec());
    generation.progress = read(message.progress());
    generation.error = read(message.error());
    for (const v1::Clip& clip : message.clips()) {
        generation.clips.push_back({clip.start_frame_index(), clip.frame_count()});
    }
    generation.create_time = read_time(message.has_create_time(), message.create_time());
    generation.start_time = read_time(message.has_start_time(), message.start_time());
    generation.first_frame_time = read_time(message.has_first_frame_time(), message.first_frame_time());
    generation.end_time = read_time(message.has_end_time(), message.end_time());
    generation.expire_time = read_time(message.has_expire_time(), message.expire_time());
    generation.deadline = read_time(message.has_deadline(), message.deadline());
    generation.priority = message.priority();
    generation.labels.assign(message.labels().begin(), message.labels().end());
    generation.detached = message.detached();
    generation.sequence = message.sequence();
    generation.first_available_frame = message.first_available_frame_index();
    generation.next_frame = message.next_frame_index();
    generation.retention_frame_count = message.retention_frame_count();
    return generation;
}

Status read(const v1::GenerationError& message) {
    Status status;
    if (message.code() == 0 && message.reason().empty()) {
        return status;
    }
    const bool is_known = message.code() > 0 && message.code() <= static_cast<int>(Code::kUnauthenticated);
    status.code = is_known ? static_cast<Code>(message.code()) : Code::kUnknown;
    status.reason = message.reason();
    status.message = message.message();
    status.metadata.assign(message.metadata().begin(), message.metadata().end());
    return status;
}

Update read(const v1::WatchGenerationResponse& message) {
    Update update;
    update.generation = read(message.generation());
    for (const v1::GenerationEvent& entry : message.events()) {
        GenerationEvent event;
        event.sequence = entry.sequence();
        event.time = read_time(entry.time());
        event.state = read_state(entry.state());
        event.state_reason = entry.state_reason();
        event.message = entry.message();
        update.events.push_back(std::move(event));
    }
    for (const v1::Preview& entry : message.previews()) {
        update.previews.push_back(
            {entry.frame_index(), entry.completed_step_count(), entry.width(), entry.height(), entry.jpeg_data()});
    }
    return update;
}

ServerInfo read(const v1::ServerInfo& message) {
    ServerInfo info;
    info.version = message.version();
    info.api_version = message.api_version();
    info.boot_id = message.boot_id();
    info.ready = message.ready();
    info.server_time = read_time(message.has_server_time(), message.server_time());
    for (const v1::ModelInfo& model : message.models()) {
        info.models.push_back(read(model));
    }
    for (const v1::RankInfo& entry : message.ranks()) {
        info.ranks.push_back({entry.rank(), entry.host(), entry.device(), entry.device_name(),
                              entry.memory_used_bytes(), entry.memory_total_bytes(), entry.frame_count()});
    }
    if (message.has_mesh()) {
        const v1::Mesh& mesh = message.mesh();
        info.mesh = Mesh{mesh.clip_count(), mesh.cfg_rank_count(), mesh.context_rank_count()};
    }
    info.waiting_generation_count = message.waiting_generation_count();
    info.running_generation_count = message.running_generation_count();
    info.max_image_bytes = message.limits().max_image_bytes();
    info.max_image_pixels = message.limits().max_image_pixels();
    return info;
}

Result<VideoFormat> read(const v1::VideoFormat& message) {
    VideoFormat format;
    format.width = message.width();
    format.height = message.height();
    format.frame_rate = read(message.frame_rate());
    format.encoding = static_cast<Encoding>(message.encoding());
    format.pixel_format = static_cast<PixelFormat>(message.pixel_format());
    format.row_order = static_cast<RowOrder>(message.row_order());
    format.frame_size_bytes = message.frame_size_bytes();
    format.frame_count = message.frame_count();
    format.color = {message.color().primaries(), message.color().transfer(), message.color().matrix(),
                    message.color().full_range()};
    format.revision = message.format_revision();
    bool is_sound = format.width > 0 && format.height > 0 && format.frame_size_bytes >= 0 &&
                    static_cast<std::size_t>(message.planes_size()) <= VideoFormat::kMaxPlanes &&
                    (format.encoding != Encoding::kRaw || (message.planes_size() > 0 && format.frame_size_bytes > 0));
    for (const v1::Plane& entry : message.planes()) {
        if (!is_sound) {
            break;
        }
        Plane& plane = format.planes[format.plane_count++];
        plane = {entry.offset_bytes(), entry.stride_bytes(), entry.row_bytes(), entry.row_count()};
        // Who trusts a view of this plane must not read beyond the frame. Sizes first, so that nothing overflows.
        is_sound = plane.row_count > 0 && plane.row_bytes > 0 && plane.stride_bytes >= plane.row_bytes &&
                   plane.stride_bytes <= format.frame_size_bytes && plane.offset_bytes >= 0 &&
                   plane.offset_bytes <= format.frame_size_bytes &&
                   (plane.row_count - 1) <= (format.frame_size_bytes - plane.offset_bytes - plane.row_bytes) /
                                                plane.stride_bytes &&
                   plane.offset_bytes + plane.row_bytes <= format.frame_size_bytes;
    }
    if (!is_sound) {
        return Status::of(Code::kInternal, "PROTOCOL", "the server describes frames that cannot be");
    }
    return format;
}

}  // namespace vinf::detail

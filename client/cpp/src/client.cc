#include "vinf/client.h"

#include <algorithm>
#include <utility>

#include "convert.h"
#include "transport.h"
#include "vinf/frame_puller.h"

namespace vinf {
namespace {

using Video = v1::VideoGenerationService::Stub;

/// What the server asks to come back for, and will not stay so.
bool is_worth_waiting_for(const Status& status) {
    return status.reason == "WORKERS_NOT_READY" || status.reason == "QUEUE_FULL" ||
           (status.reason == "CLIENT_LIMIT" && status.retry_after);
}

/// A watch without an end of its own is a transport failure.
Status broken_off() {
    return Status::of(Code::kUnavailable, "", "the connection broke while the generation was watched");
}

}  // namespace

Client::Client(std::shared_ptr<detail::Transport> transport) : transport_(std::move(transport)) {}

Result<Client> Client::open(const ClientOptions& options) {
    Result<std::shared_ptr<detail::Transport>> transport = detail::Transport::open(options);
    if (!transport.ok()) {
        return transport.status();
    }
    return Client(std::move(*transport));
}

Result<Generation> Client::create_generation(const GenerationRequest& request,
                                             std::chrono::milliseconds patience) const {
    // One id for all tries: a reply that got lost does not start a second generation.
    v1::CreateGenerationRequest message;
    if (Status status = detail::write(request, message); !status.ok()) {
        return status;
    }
    const auto until = std::chrono::steady_clock::now() + patience;
    while (true) {
        v1::CreateGenerationResponse response;
        Status status = transport_->call(transport_->video(), &Video::CreateGeneration, message, response);
        if (status.ok()) {
            return detail::read(response.generation());
        }
        const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
            until - std::chrono::steady_clock::now());
        if (!is_worth_waiting_for(status) || left.count() <= 0) {
            return status;
        }
        const auto pause = status.retry_after.value_or(std::chrono::milliseconds(500));
        status = transport_->wait(std::min(left, pause));
        if (!status.ok()) {
            return status;
        }
    }
}

Result<Generation> Client::get_generation(const std::string& generation_id) const {
    v1::GetGenerationRequest request;
    request.set_generation_id(generation_id);
    v1::GetGenerationResponse response;
    Status status = transport_->call(transport_->video(), &Video::GetGeneration, request, response);
    return status.ok() ? Result<Generation>(detail::read(response.generation())) : Result<Generation>(status);
}

Result<GenerationPage> Client::list_generations(int page_size, const std::string& page_token,
                                                const std::vector<GenerationState>& states) const {
    v1::ListGenerationsRequest request;
    request.set_page_size(page_size);
    request.set_page_token(page_token);
    for (const GenerationState state : states) {
        request.add_states(static_cast<v1::GenerationState>(state));
    }
    v1::ListGenerationsResponse response;
    Status status = transport_->call(transport_->video(), &Video::ListGenerations, request, response);
    if (!status.ok()) {
        return status;
    }
    GenerationPage page;
    for (const v1::Generation& generation : response.generations()) {
        page.generations.push_back(detail::read(generation));
    }
    page.next_page_token = response.next_page_token();
    return page;
}

Result<Generation> Client::cancel_generation(const std::string& generation_id) const {
    v1::CancelGenerationRequest request;
    request.set_generation_id(generation_id);
    v1::CancelGenerationResponse response;
    Status status = transport_->call(transport_->video(), &Video::CancelGeneration, request, response);
    return status.ok() ? Result<Generation>(detail::read(response.generation())) : Result<Generation>(status);
}

Status Client::delete_generation(const std::string& generation_id) const {
    v1::DeleteGenerationRequest request;
    request.set_generation_id(generation_id);
    v1::DeleteGenerationResponse response;
    return transport_->call(transport_->video(), &Video::DeleteGeneration, request, response);
}

Result<ServerInfo> Client::server_info() const {
    v1::GetServerInfoResponse response;
    Status status = transport_->call(transport_->info(), &v1::ServerInfoService::Stub::GetServerInfo,
                                     v1::GetServerInfoRequest(), response);
    return status.ok() ? Result<ServerInfo>(detail::read(response.server_info())) : Result<ServerInfo>(status);
}

Result<Generation> Client::watch_generation(const std::string& generation_id,
                                            const std::function<bool(const Update&)>& on_update,
                                            const WatchOptions& options) const {
    Status status = transport_->connect();
    detail::Attempts attempts(transport_->resume_attempts());
    v1::WatchGenerationRequest request;
    request.set_generation_id(generation_id);
    request.set_after_sequence(options.after_sequence);
    request.set_with_previews(options.previews);
    while (status.ok()) {
        grpc::ClientContext context;
        transport_->prepare(context);
        const detail::Transport::Hook hook(*transport_, [&context] { context.TryCancel(); });
        const std::unique_ptr<grpc::ClientReader<v1::WatchGenerationResponse>> reader =
            transport_->video().WatchGeneration(&context, request);
        v1::WatchGenerationResponse response;
        while (reader->Read(&response)) {
            attempts.progressed();
            const Update update = detail::read(response);
            if (!update.events.empty()) {
                request.set_after_sequence(update.events.back().sequence);
            }
            const bool goes_on = on_update(update);
            if (!goes_on || update.generation.has_ended()) {
                context.TryCancel();
                (void)reader->Finish();
                return update.generation;
            }
        }
        Status end = transport_->finished(reader->Finish());
        end = end.ok() ? broken_off() : std::move(end);
        std::chrono::milliseconds pause{};
        if (!attempts.failed(end, pause)) {
            return end;
        }
        status = transport_->wait(pause);
    }
    return status;
}

Result<PullerStatistics> Client::download(const std::string& generation_id,
                                          const std::function<bool(const Frame&)>& on_frame,
                                          const DownloadOptions& options) const {
    PullerOptions pull;
    pull.format = options.format;
    pull.start_frame = options.start_frame;
    pull.skip_missing_frames = options.skip_missing_frames;
    pull.release_frames = options.release_frames;
    Result<FramePuller> puller = FramePuller::start(*this, generation_id, pull);
    if (!puller.ok()) {
        return puller.status();
    }
    while (true) {
        Result<Frame> frame = puller->next(options.stall_timeout.value_or(std::chrono::hours(1)));
        if (!frame.ok()) {
            if (frame.status().reason == "NO_FRAME_YET" && !options.stall_timeout) {
                continue;
            }
            return frame.status();
        }
        if (!*frame || !on_frame(*frame)) {
            return puller->statistics();
        }
    }
}

void Client::close() const { transport_->close(); }

}  // namespace vinf

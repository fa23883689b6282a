/// @file
/// The connection to a server, and everything but frames for a render loop (see frame_puller.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "vinf/generation.h"
#include "vinf/puller_types.h"
#include "vinf/status.h"

namespace vinf {

namespace detail {
class Transport;
}

/// What a connection is made with. What is left empty is looked up in the environment: VINF_SERVER, VINF_TOKEN,
/// VINF_TLS, VINF_TLS_CA, VINF_TLS_CERT, VINF_TLS_KEY.
struct ClientOptions {
    /// "host:port", or a gRPC target such as "unix:/run/vinf.sock". Default: 127.0.0.1:50051.
    std::string address;

    std::string token;       ///< Wins over token_file.
    std::string token_file;  ///< A file with the token; white space around it is ignored.

    std::optional<bool> tls;  ///< Unset: when one of the files below is given.
    std::string tls_ca;       ///< PEM; without it the system's authorities.
    std::string tls_cert;     ///< PEM; needs tls_key.
    std::string tls_key;      ///< PEM, without a password.

    /// Allows a token to travel unencrypted beyond this machine.
    bool insecure = false;

    bool use_environment = true;

    std::chrono::milliseconds connect_timeout{5000};  ///< Until a silent server counts as unreachable.
    std::chrono::milliseconds call_timeout{30000};    ///< For one answer.
    int resume_attempts = 10;  ///< Failures in a row after which a watch gives up.
};

/// How a generation is followed.
struct WatchOptions {
    std::int64_t after_sequence = 0;  ///< Only events with a higher sequence.
    bool previews = false;
};

/// How a video is fetched.
struct DownloadOptions {
    OutputFormat format;
    std::int64_t start_frame = 0;
    /// Frames that the server keeps no longer or has lost are left out; otherwise they end the download.
    bool skip_missing_frames = false;
    bool release_frames = false;  ///< See PullerOptions.
    /// The longest time without a frame; unset: for ever.
    std::optional<std::chrono::milliseconds> stall_timeout;
};

/// A connection to one server. Copies share it.
///
/// Thread-safety: every method may be called from any thread at any time. Every method but `open` and `close` blocks.
/// No method throws. Calls that a broken connection lost are made again (every call is idempotent).
class Client {
public:
    /// Checks the options and reads their files. It connects with the first call.
    ///
    /// INVALID_ARGUMENT: an address that is none, a file that cannot be read, or a token that would travel unencrypted
    /// beyond this machine without `insecure`; `violations` names the option.
    static Result<Client> open(const ClientOptions& options = {});

    /// Checks, admits and queues. Waits up to `patience` for a server whose ranks still start or whose queue is full.
    ///
    /// INVALID_ARGUMENT with every violation, NOT_FOUND/MODEL_NOT_FOUND, RESOURCE_EXHAUSTED/QUEUE_FULL, CLIENT_LIMIT
    /// or DISK_FULL, UNAVAILABLE/WORKERS_NOT_READY, SERVER_DRAINING, or without a reason where no server is.
    Result<Generation> create_generation(const GenerationRequest& request,
                                         std::chrono::milliseconds patience = std::chrono::seconds(60)) const;

    /// NOT_FOUND/GENERATION_NOT_FOUND, as with every call that takes an id.
    Result<Generation> get_generation(const std::string& generation_id) const;

    /// One page, newest first, only those in `states` when given. `page_size` in [1, 500].
    Result<GenerationPage> list_generations(int page_size = 50, const std::string& page_token = {},
                                            const std::vector<GenerationState>& states = {}) const;

    /// Asks for its end and returns at once. One that has ended stays as it is.
    Result<Generation> cancel_generation(const std::string& generation_id) const;

    /// Forgets one that has ended, and its frames. FAILED_PRECONDITION/WRONG_STATE: it has not.
    Status delete_generation(const std::string& generation_id) const;

    Result<ServerInfo> server_info() const;

    /// Calls `on_update` with a snapshot at once and at every change until the generation has ended or it returns
    /// false; returns the last snapshot. Broken connections are resumed: no event is left out or comes twice.
    Result<Generation> watch_generation(const std::string& generation_id,
                                        const std::function<bool(const Update&)>& on_update,
                                        const WatchOptions& options = {}) const;

    /// Calls `on_frame` with every frame in order, while they are made, until the end or until it returns false.
    /// Broken connections are resumed: no frame is left out or comes twice. Calls come from this thread.
    ///
    /// The status of the generation where it failed or was cancelled, after the frames made before;
    /// OUT_OF_RANGE/FRAME_EVICTED, DATA_LOSS/FRAME_DAMAGED without `skip_missing_frames`.
    Result<PullerStatistics> download(const std::string& generation_id,
                                      const std::function<bool(const Frame&)>& on_frame,
                                      const DownloadOptions& options = {}) const;

    /// Ends the connection of all copies: calls and pullers under way end with CANCELLED/CLIENT_CLOSED.
    void close() const;

private:
    friend class FramePuller;
    explicit Client(std::shared_ptr<detail::Transport> transport);

    std::shared_ptr<detail::Transport> transport_;
};

}  // namespace vinf

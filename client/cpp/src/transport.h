#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "access.h"
#include "backoff.h"
#include "vinf/client.h"
#include "vinf/status.h"
#include "vinf/v1/server_info_service.grpc.pb.h"
#include "vinf/v1/video_generation_service.grpc.pb.h"

namespace vinf::detail {

/// Largest message this client takes, whatever the server sends.
constexpr int kReceiveLimitBytes = 64 << 20;

/// A failed gRPC call to `server`, in this library's words.
Status translated(const grpc::Status& failure, const std::string& server);

/// One channel to one server: options, deadlines, retries, and the place where gRPC's errors end. Thread-safe.
class Transport {
public:
    static Result<std::shared_ptr<Transport>> open(const ClientOptions& options);

    /// Something that `close` ends: calls an action when the transport is closed, perhaps at once.
    class Hook {
    public:
        Hook(Transport& transport, std::function<void()> action);
        ~Hook();
        Hook(const Hook&) = delete;
        Hook& operator=(const Hook&) = delete;

    private:
        Transport& transport_;
        std::int64_t key_ = 0;
    };

    /// Succeeds once the server was reached for the first time; later breaks are for the retries of each call.
    Status connect();

    /// Makes one call, again where the connection broke (every call is idempotent).
    template <class Stub, class Request, class Response>
    Status call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                const Request& request, Response& response) {
        Status status = connect();
        Attempts attempts(kCallAttempts);
        while (status.ok()) {
            status = call_once(stub, method, request, response, call_timeout_);
            std::chrono::milliseconds pause{};
            // With a reason it is the server's word, not the network's.
            if (!status.reason.empty() || status.ok() || !attempts.failed(status, pause)) {
                break;
            }
            status = wait(pause);
        }
        return status;
    }

    template <class Stub, class Request, class Response>
    Status call_once(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                     const Request& request, Response& response, std::chrono::milliseconds timeout) {
        grpc::ClientContext context;
        prepare(context);
        context.set_deadline(std::chrono::system_clock::now() + timeout);
        const Hook hook(*this, [&context] { context.TryCancel(); });
        return finished((stub.*method)(&context, request, &response));
    }

    /// Adds what every call carries.
    void prepare(grpc::ClientContext& context) const;

    /// What a call's end means to the caller.
    Status finished(const grpc::Status& status) const;

    /// Sleeps before another try; fails where the transport is closed, also meanwhile.
    Status wait(std::chrono::milliseconds time);

    /// Ends every call, wait and hook.
    void close();

    v1::VideoGenerationService::Stub& video() { return *video_; }
    v1::ServerInfoService::Stub& info() { return *info_; }
    std::chrono::milliseconds call_timeout() const { return call_timeout_; }
    int resume_attempts() const { return resume_attempts_; }

private:
    static constexpr int kCallAttempts = 5;

    Transport(const ClientOptions& options, Access access);

    const std::string server_;
    const std::string authorization_;
    const std::chrono::milliseconds connect_timeout_;
    const std::chrono::milliseconds call_timeout_;
    const int resume_attempts_;
    std::unique_ptr<v1::VideoGenerationService::Stub> video_;
    std::unique_ptr<v1::ServerInfoService::Stub> info_;
    std::atomic<bool> is_connected_{false};

    mutable std::mutex mutex_;
    std::condition_variable closed_;
    bool is_closed_ = false;
    std::map<std::int64_t, std::function<void()>> hooks_;
    std::int64_t last_key_ = 0;
};

}  // namespace vinf::detail

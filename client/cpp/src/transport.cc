#include "transport.h"

#include <utility>

namespace vinf::detail {
namespace {

Status closed_status() { return Status::of(Code::kCancelled, "CLIENT_CLOSED", "the client was closed"); }

std::shared_ptr<grpc::Channel> make_channel(const Access& access) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kReceiveLimitBytes);
    // A hung machine is noticed even while no frame is due.
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
    // gRPC's own pause between connection attempts grows to two minutes; a restarted server is back sooner.
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1'000);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2'000);
    if (is_loopback(access.target)) {
        arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // a proxy could not reach it
    }
    std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
    if (access.tls) {
        grpc::SslCredentialsOptions tls;
        tls.pem_root_certs = access.root_certificates;
        tls.pem_cert_chain = access.certificate;
        tls.pem_private_key = access.key;
        credentials = grpc::SslCredentials(tls);
    }
    return grpc::CreateCustomChannel(access.target, credentials, arguments);
}

}  // namespace

Transport::Hook::Hook(Transport& transport, std::function<void()> action) : transport_(transport) {
    const std::lock_guard<std::mutex> lock(transport_.mutex_);
    if (transport_.is_closed_) {
        action();
    }
    key_ = ++transport_.last_key_;
    transport_.hooks_.emplace(key_, std::move(action));
}

Transport::Hook::~Hook() {
    const std::lock_guard<std::mutex> lock(transport_.mutex_);
    transport_.hooks_.erase(key_);
}

Result<std::shared_ptr<Transport>> Transport::open(const ClientOptions& options) {
    Result<Access> access = resolve_access(options, process_environment);
    if (!access.ok()) {
        return access.status();
    }
    return std::shared_ptr<Transport>(new Transport(options, std::move(*access)));
}

Transport::Transport(const ClientOptions& options, Access access)
    : server_(access.target),
      authorization_(access.token.empty() ? "" : "Bearer " + access.token),
      connect_timeout_(options.connect_timeout),
      call_timeout_(options.call_timeout),
      resume_attempts_(options.resume_attempts) {
    const std::shared_ptr<grpc::Channel> channel = make_channel(access);
    video_ = v1::VideoGenerationService::NewStub(channel);
    info_ = v1::ServerInfoService::NewStub(channel);
}

Status Transport::connect() {
    if (is_connected_) {
        return {};
    }
    v1::GetServerInfoResponse response;
    Status status = call_once(info(), &v1::ServerInfoService::Stub::GetServerInfo, v1::GetServerInfoRequest(), response,
                              connect_timeout_);
    if (status.code == Code::kDeadlineExceeded && status.reason.empty()) {
        // Not the timeout of a call that arrived: most likely a host that drops packets.
        return Status::of(Code::kUnavailable, "",
                          "cannot reach a vinf server at " + server_ + ": no answer within " +
                              std::to_string(connect_timeout_.count()) + " ms");
    }
    is_connected_ = status.ok();
    return status;
}

void Transport::prepare(grpc::ClientContext& context) const {
    context.AddMetadata("x-vinf-client", "cpp/" VINF_VERSION);
    if (!authorization_.empty()) {
        context.AddMetadata("authorization", authorization_);
    }
}

Status Transport::finished(const grpc::Status& status) const {
    if (status.ok()) {
        return {};
    }
    if (status.error_code() == grpc::StatusCode::CANCELLED) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (is_closed_) {
            return closed_status();
        }
    }
    return translated(status, server_);
}

Status Transport::wait(std::chrono::milliseconds time) {
    std::unique_lock<std::mutex> lock(mutex_);
    return closed_.wait_for(lock, time, [this] { return is_closed_; }) ? closed_status() : Status();
}

void Transport::close() {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_closed_ = true;
    closed_.notify_all();
    for (const auto& hook : hooks_) {
        hook.second();
    }
}

}  // namespace vinf::detail

// gRPC's failures, in this library's words: what google.rpc details say wins over the code alone.
#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "rpc_status.pb.h"
#include "transport.h"

namespace vinf::detail {
namespace {

namespace rpc = ::vinf::cpp::internal;

constexpr const char* kDomain = "vinf";
constexpr std::size_t kLongestMessage = 2000;
constexpr const char* kNotGrpc = "what listens there does not speak gRPC; is it the port of a web page, or of metrics?";

constexpr std::array<std::pair<const char*, const char*>, 14> kCauses = {{
    {"connection refused", "connection refused"},
    {"failed parsing http/2", kNotGrpc},
    {"http1.x server", kNotGrpc},
    {"dns resolution failed", "the host name is not known"},
    {"domain name not found", "the host name is not known"},
    {"no route to host", "no route to the host"},
    {"network is unreachable", "the network is unreachable"},
    {"certificate_verify_failed", "its certificate is not trusted, has expired, or is for another name"},
    {"wrong_version_number", "it does not speak TLS"},
    {"socket closed", "the connection broke"},
    {"connection reset", "the connection broke"},
    {"broken pipe", "the connection broke"},
    {"keepalive watchdog", "it stopped answering"},
    {"ping timeout", "it stopped answering"},
}};

constexpr std::array<std::pair<const char*, const char*>, 4> kAdvice = {{
    {"TOKEN_MISSING", "give yours with ClientOptions::token, token_file or $VINF_TOKEN"},
    {"TOKEN_INVALID", "check that it is the one for this server, whose operator can make another (vinf token)"},
    {"TOKEN_EXPIRED", "ask the server's operator for a new one (vinf token)"},
    {"CERTIFICATE_INVALID", "use one with an alternative name or a common name"},
}};

/// Keeps a message on one line and at a readable length.
std::string plain(const std::string& text) {
    std::string line;
    for (const char c : text) {
        const bool is_blank = std::isspace(static_cast<unsigned char>(c)) != 0;
        if (!is_blank) {
            line += c;
        } else if (!line.empty() && line.back() != ' ') {
            line += ' ';
        }
    }
    return line.size() <= kLongestMessage ? line : line.substr(0, kLongestMessage) + "...";
}

std::string cause_of(const std::string& text) {
    std::string lower = text;
    std::transform(lower.begin(), lower.end(), lower.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    for (const auto& cause : kCauses) {
        if (lower.find(cause.first) != std::string::npos) {
            return cause.second;
        }
    }
    return text.empty() ? "no answer" : text;
}

bool is_type(const rpc::RpcAny& any, const std::string& name) {
    const std::string& url = any.type_url();
    return url.size() > name.size() && url.compare(url.size() - name.size(), name.size(), name) == 0 &&
           url[url.size() - name.size() - 1] == '/';
}

/// Fills in what the details say; garbage, perhaps of a proxy, must not hide the failure it came with.
void read_details(const std::string& bytes, Status& status) {
    rpc::RpcStatus packed;
    if (bytes.empty() || !packed.ParseFromString(bytes)) {
        return;
    }
    for (const rpc::RpcAny& any : packed.details()) {
        rpc::RpcErrorInfo info;
        rpc::RpcBadRequest bad_request;
        rpc::RpcRetryInfo retry;
        if (is_type(any, "google.rpc.ErrorInfo") && info.ParseFromString(any.value()) && info.domain() == kDomain) {
            status.reason = info.reason();
            status.metadata.assign(info.metadata().begin(), info.metadata().end());
            std::sort(status.metadata.begin(), status.metadata.end());
        } else if (is_type(any, "google.rpc.BadRequest") && bad_request.ParseFromString(any.value())) {
            for (const auto& violation : bad_request.field_violations()) {
                status.violations.push_back({violation.field(), plain(violation.description())});
            }
        } else if (is_type(any, "google.rpc.RetryInfo") && retry.ParseFromString(any.value())) {
            const auto& delay = retry.retry_delay();
            const auto time = std::chrono::seconds(delay.seconds()) + std::chrono::nanoseconds(delay.nanos());
            status.retry_after = std::max(std::chrono::milliseconds(0),
                                          std::chrono::duration_cast<std::chrono::milliseconds>(time));
        }
    }
}

}  // namespace

Status translated(const grpc::Status& failure, const std::string& server) {
    Status status;
    status.code = static_cast<Code>(failure.error_code());
    read_details(failure.error_details(), status);
    const std::string text = plain(failure.error_message());
    const std::string whom = "the vinf server at " + server;
    if (!status.violations.empty()) {
        status.message = Status::invalid(status.violations).message;
    } else if (status.code == Code::kUnauthenticated) {
        std::string advice = "check the token and the certificate";
        for (const auto& entry : kAdvice) {
            advice = status.reason == entry.first ? entry.second : advice;
        }
        status.message = whom + " refused the call: " + text + "; " + advice;
    } else if (!status.reason.empty()) {
        status.message = text;
    } else if (status.code == Code::kDeadlineExceeded) {
        status.message = whom + " did not answer in time";
    } else if (status.code == Code::kUnavailable) {
        status.message = "cannot reach a vinf server at " + server + ": " + cause_of(text);
    } else if (status.code == Code::kUnimplemented) {
        status.message = "the server at " + server + " is no vinf server, or one of another version: " + text;
    } else {
        status.message = text.empty() ? whom + " answered " + name_of(status.code) : text;
    }
    return status;
}

}  // namespace vinf::detail

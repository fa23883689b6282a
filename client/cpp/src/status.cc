#include "vinf/status.h"

#include <cstdio>
#include <cstdlib>

namespace vinf {

const char* name_of(Code code) {
    switch (code) {
        case Code::kOk: return "OK";
        case Code::kCancelled: return "CANCELLED";
        case Code::kUnknown: return "UNKNOWN";
        case Code::kInvalidArgument: return "INVALID_ARGUMENT";
        case Code::kDeadlineExceeded: return "DEADLINE_EXCEEDED";
        case Code::kNotFound: return "NOT_FOUND";
        case Code::kAlreadyExists: return "ALREADY_EXISTS";
        case Code::kPermissionDenied: return "PERMISSION_DENIED";
        case Code::kResourceExhausted: return "RESOURCE_EXHAUSTED";
        case Code::kFailedPrecondition: return "FAILED_PRECONDITION";
        case Code::kAborted: return "ABORTED";
        case Code::kOutOfRange: return "OUT_OF_RANGE";
        case Code::kUnimplemented: return "UNIMPLEMENTED";
        case Code::kInternal: return "INTERNAL";
        case Code::kUnavailable: return "UNAVAILABLE";
        case Code::kDataLoss: return "DATA_LOSS";
        case Code::kUnauthenticated: return "UNAUTHENTICATED";
    }
    return "UNKNOWN";
}

const std::string* Status::find(const std::string& name) const {
    for (const auto& entry : metadata) {
        if (entry.first == name) {
            return &entry.second;
        }
    }
    return nullptr;
}

std::string Status::to_string() const {
    std::string text = name_of(code);
    if (!reason.empty()) {
        text += "/" + reason;
    }
    return message.empty() ? text : text + ": " + message;
}

Status Status::of(Code code, std::string reason, std::string message) {
    Status status;
    status.code = code;
    status.reason = std::move(reason);
    status.message = std::move(message);
    return status;
}

Status Status::invalid(std::vector<Violation> violations) {
    std::string text;
    for (const Violation& violation : violations) {
        text += (text.empty() ? "" : "; ") + violation.field + ": " + violation.description;
    }
    Status status = of(Code::kInvalidArgument, "INVALID_FIELD", std::move(text));
    status.violations = std::move(violations);
    return status;
}

void detail::value_of_failure(const Status& status) {
    std::fprintf(stderr, "vinf: the value of a failed Result was used; it failed with %s\n",
                 status.to_string().c_str());
    std::abort();
}

}  // namespace vinf

/// @file
/// How calls end: a status with a code, a reason for programs and a message for people.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace vinf {

/// What kind of end a call had; the numbers are those of google.rpc.Code.
enum class Code {
    kOk = 0,
    kCancelled = 1,
    kUnknown = 2,
    kInvalidArgument = 3,
    kDeadlineExceeded = 4,
    kNotFound = 5,
    kAlreadyExists = 6,
    kPermissionDenied = 7,
    kResourceExhausted = 8,
    kFailedPrecondition = 9,
    kAborted = 10,
    kOutOfRange = 11,
    kUnimplemented = 12,
    kInternal = 13,
    kUnavailable = 14,
    kDataLoss = 15,
    kUnauthenticated = 16,
};

/// The name of a code as gRPC writes it, for example "UNAVAILABLE".
const char* name_of(Code code);

/// One broken rule of a request.
struct Violation {
    std::string field;        ///< Path on the wire, for example "spec.width"; an option's name for local ones.
    std::string description;  ///< What is wrong with it, and what is allowed.
};

/// How a call ended. A default one is success and holds no heap memory.
struct [[nodiscard]] Status {
    Code code = Code::kOk;

    /// UPPER_SNAKE_CASE, for programs, for example "QUEUE_FULL"; empty when the server gave none.
    std::string reason;

    /// One line for people: what happened and, where known, what to do. Never holds a token.
    std::string message;

    /// When the server suggests to try again.
    std::optional<std::chrono::milliseconds> retry_after;

    /// Every broken rule, with kInvalidArgument.
    std::vector<Violation> violations;

    /// Everything dynamic in the message, by name, for example "firstAvailableFrameIndex".
    std::vector<std::pair<std::string, std::string>> metadata;

    bool ok() const { return code == Code::kOk; }

    /// The value of an entry of `metadata`; null when there is none.
    const std::string* find(const std::string& name) const;

    /// "CODE/REASON: message", for logs.
    std::string to_string() const;

    /// A status without details.
    static Status of(Code code, std::string reason, std::string message);

    /// A request that breaks rules; the message names them all.
    static Status invalid(std::vector<Violation> violations);
};

namespace detail {
[[noreturn]] void value_of_failure(const Status& status);
}

/// A value, or why there is none. Using the value of a failure ends the program: ask `ok()` first.
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : value_(std::move(value)) {}                // NOLINT(google-explicit-constructor): `return value;`
    Result(Status failure) : status_(std::move(failure)) {}      // NOLINT(google-explicit-constructor): `return status;`

    bool ok() const { return status_.ok(); }
    explicit operator bool() const { return ok(); }
    const Status& status() const { return status_; }

    T& value() & {
        check();
        return *value_;
    }
    const T& value() const& {
        check();
        return *value_;
    }
    T&& value() && {
        check();
        return std::move(*value_);
    }
    T& operator*() & { return value(); }
    const T& operator*() const& { return value(); }
    T&& operator*() && { return std::move(*this).value(); }
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }

private:
    void check() const {
        if (!value_) {
            detail::value_of_failure(status_);
        }
    }

    std::optional<T> value_;
    Status status_;
};

}  // namespace vinf

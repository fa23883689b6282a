#pragma once

#include <chrono>

#include "vinf/status.h"

namespace vinf::detail {

/// Counts failures in a row and says how long to wait after each, with jitter, so that the readers of a restarted
/// server do not return in step. Not thread-safe.
class Attempts {
public:
    explicit Attempts(int limit) : limit_(limit) {}

    /// Forgets earlier failures: something arrived.
    void progressed() { failures_ = 0; }

    /// Whether to try again after this failure, and when; false where it is final or there were too many.
    bool failed(const Status& status, std::chrono::milliseconds& pause);

private:
    int limit_;
    int failures_ = 0;
};

/// Whether a call that ended so may succeed when it is simply made again.
bool is_transient(const Status& status);

}  // namespace vinf::detail

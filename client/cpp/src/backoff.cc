#include "backoff.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace vinf::detail {
namespace {

constexpr double kFirstMs = 100;
constexpr double kLongestMs = 5000;

}  // namespace

bool is_transient(const Status& status) { return status.code == Code::kUnavailable; }

bool Attempts::failed(const Status& status, std::chrono::milliseconds& pause) {
    ++failures_;
    if (!is_transient(status) || failures_ > limit_) {
        return false;
    }
    thread_local std::minstd_rand random{std::random_device{}()};
    const double full = std::min(kLongestMs, kFirstMs * std::pow(2.0, std::min(failures_ - 1, 30)));
    const double jittered = full * std::uniform_real_distribution<double>(0.5, 1.0)(random);
    pause = status.retry_after.value_or(std::chrono::milliseconds(static_cast<int>(jittered)));
    return true;
}

}  // namespace vinf::detail

#include "vinf/generation.h"

namespace vinf {

const char* name_of(GenerationState state) {
    switch (state) {
        case GenerationState::kUnknown: break;
        case GenerationState::kPending: return "pending";
        case GenerationState::kRunning: return "running";
        case GenerationState::kCancelling: return "cancelling";
        case GenerationState::kSucceeded: return "succeeded";
        case GenerationState::kFailed: return "failed";
        case GenerationState::kCancelled: return "cancelled";
        case GenerationState::kSuspended: return "suspended";
    }
    return "unknown";
}

bool Generation::has_ended() const {
    return state == GenerationState::kSucceeded || state == GenerationState::kFailed ||
           state == GenerationState::kCancelled || end_time.has_value();
}

}  // namespace vinf

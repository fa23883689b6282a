#pragma once

#include "vinf/generation.h"
#include "vinf/status.h"
#include "vinf/v1/server_info_service.pb.h"
#include "vinf/v1/video_generation_service.pb.h"

namespace vinf::detail {

/// Writes a request; what the wire cannot say (an explicit 0 means the server's default there) is refused.
Status write(const GenerationRequest& request, v1::CreateGenerationRequest& message);

void write(const OutputFormat& format, v1::OutputFormat& message);

Generation read(const v1::Generation& message);
Update read(const v1::WatchGenerationResponse& message);
ServerInfo read(const v1::ServerInfo& message);

/// Why a generation ended without success; OK where it does not say.
Status read(const v1::GenerationError& message);

/// INTERNAL/PROTOCOL: planes that do not lie within a frame, or an unknown layout.
Result<VideoFormat> read(const v1::VideoFormat& message);

}  // namespace vinf::detail

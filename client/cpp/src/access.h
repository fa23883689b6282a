#pragma once

#include <functional>
#include <string>

#include "vinf/client.h"
#include "vinf/status.h"

namespace vinf::detail {

/// Whom the connection goes to, who calls and whom it trusts: checked, with files read.
struct Access {
    std::string target;
    std::string token;
    bool tls = false;
    std::string root_certificates;  // empty: those that come with gRPC
    std::string certificate;
    std::string key;
};

using Environment = std::function<std::string(const char* name)>;

/// The process's own environment; empty for what is not set.
std::string process_environment(const char* name);

/// Fills in what was not given and refuses what cannot work, or would show a token to everybody on the way.
Result<Access> resolve_access(const ClientOptions& options, const Environment& environment);

/// Whether nothing that is sent to a gRPC target leaves this machine.
bool is_loopback(const std::string& target);

}  // namespace vinf::detail

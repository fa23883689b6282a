#include "access.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

namespace vinf::detail {
namespace {

constexpr const char* kDefaultServer = "127.0.0.1:50051";
constexpr std::size_t kLongestToken = 4096;

constexpr std::array<const char*, 5> kSchemes = {"unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:"};

/// Where Debian, Fedora, openSUSE and Alpine keep the authorities they trust.
constexpr std::array<const char*, 4> kSystemRoots = {
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem"};

using Violations = std::vector<Violation>;

bool starts_with(const std::string& text, const std::string& start) {
    return text.compare(0, start.size(), start) == 0;
}

std::string trimmed(const std::string& text) {
    const char* const blank = " \t\r\n";
    const std::size_t first = text.find_first_not_of(blank);
    return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(blank) - first + 1);
}

std::optional<std::string> read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    if (!file.is_open() || file.bad()) {
        return std::nullopt;
    }
    return text;
}

/// gRPC would take any text and fail later with words about name resolution.
std::string checked_target(const std::string& address, Violations& violations) {
    const std::string text = trimmed(address);
    if (std::any_of(kSchemes.begin(), kSchemes.end(), [&](const char* scheme) { return starts_with(text, scheme); })) {
        return text;
    }
    const std::size_t colon = text.rfind(':');
    const std::string port = colon == std::string::npos ? "" : text.substr(colon + 1);
    const bool is_number = !port.empty() && port.size() <= 5 &&
                           std::all_of(port.begin(), port.end(), [](char c) { return c >= '0' && c <= '9'; });
    const int number = is_number ? std::atoi(port.c_str()) : 0;
    if (colon == 0 || number < 1 || number > 65535 || text.find('/') != std::string::npos) {
        violations.push_back({"address", std::string("must be HOST:PORT with a port in [1, 65535], for example ") +
                                             kDefaultServer + "; got '" + address + "'"});
    }
    return text;
}

/// The contents of a file that must hold something in PEM form.
std::string read_pem(const char* option, const std::string& path, const char* label, Violations& violations) {
    if (path.empty()) {
        return "";
    }
    std::optional<std::string> text = read(path);
    if (!text) {
        violations.push_back({option, path + " cannot be read"});
        return "";
    }
    if (text->find("-----BEGIN ") == std::string::npos || text->find(label) == std::string::npos) {
        violations.push_back({option, path + " holds no " + label + " in PEM form"});
    } else if (text->find("ENCRYPTED PRIVATE KEY") != std::string::npos ||
               text->find("Proc-Type: 4,ENCRYPTED") != std::string::npos) {
        violations.push_back({option, path + " needs a password; use a key without one"});
    }
    return *text;
}

bool is_loopback_v4(const std::string& host) {
    int parts = 0;
    std::size_t at = 0;
    while (parts < 4) {
        std::size_t digits = 0;
        int value = 0;
        while (at < host.size() && host[at] >= '0' && host[at] <= '9' && digits < 4) {
            value = value * 10 + (host[at] - '0');
            ++at;
            ++digits;
        }
        if (digits == 0 || digits > 3 || value > 255 || (parts == 0 && value != 127)) {
            return false;
        }
        ++parts;
        if (parts < 4 && (at >= host.size() || host[at++] != '.')) {
            return false;
        }
    }
    return at == host.size();
}

bool is_yes(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text == "1" || text == "true" || text == "yes" || text == "on";
}

}  // namespace

std::string process_environment(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
}

bool is_loopback(const std::string& target) {
    if (starts_with(target, "unix:") || starts_with(target, "unix-abstract:")) {
        return true;
    }
    std::string addresses = target;
    for (const std::string scheme : {"dns:", "ipv4:", "ipv6:"}) {
        if (starts_with(addresses, scheme)) {
            addresses.erase(0, scheme.size());
        }
    }
    if (const std::size_t slash = addresses.rfind('/'); slash != std::string::npos) {
        addresses.erase(0, slash + 1);
    }
    for (std::size_t begin = 0; begin <= addresses.size();) {
        const std::size_t end = std::min(addresses.find(',', begin), addresses.size());
        const std::string address = addresses.substr(begin, end - begin);
        std::string host = address.substr(0, std::min(address.rfind(':'), address.size()));
        if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
            host = host.substr(1, host.size() - 2);
        }
        // A name leads where the resolver says, which is not ours to know.
        if (host != "localhost" && host != "::1" && !is_loopback_v4(host)) {
            return false;
        }
        begin = end + 1;
    }
    return true;
}

Result<Access> resolve_access(const ClientOptions& options, const Environment& environment) {
    const auto lookup = [&](const std::string& given, const char* name) {
        return given.empty() && options.use_environment ? environment(name) : given;
    };
    Violations violations;
    Access access;
    const std::string address = lookup(options.address, "VINF_SERVER");
    access.target = checked_target(address.empty() ? kDefaultServer : address, violations);

    access.token = options.token;
    if (access.token.empty() && !options.token_file.empty()) {
        const std::optional<std::string> text = read(options.token_file);
        if (!text || trimmed(*text).empty()) {
            violations.push_back({"token_file", options.token_file + (text ? " is empty" : " cannot be read")});
        }
        access.token = trimmed(text.value_or(""));
    } else {
        access.token = lookup(access.token, "VINF_TOKEN");
    }
    const bool is_printable =
        std::all_of(access.token.begin(), access.token.end(), [](char c) { return c > 0x20 && c < 0x7f; });
    if (!is_printable || access.token.size() > kLongestToken) {
        violations.push_back({"token", "must be 1 to 4096 printable ASCII characters without spaces"});
    }

    const bool is_off = options.tls.has_value() && !*options.tls;
    const auto file = [&](const std::string& given, const char* name) { return is_off ? given : lookup(given, name); };
    const std::string ca = file(options.tls_ca, "VINF_TLS_CA");
    const std::string certificate = file(options.tls_cert, "VINF_TLS_CERT");
    const std::string key = file(options.tls_key, "VINF_TLS_KEY");
    const bool has_file = !ca.empty() || !certificate.empty() || !key.empty();
    access.tls = options.tls.value_or(has_file || (options.use_environment && is_yes(environment("VINF_TLS"))));
    if (is_off && has_file) {
        violations.push_back({"tls", "is off; leave out tls_ca, tls_cert and tls_key"});
    } else {
        access.root_certificates = read_pem("tls_ca", ca, "CERTIFICATE", violations);
        access.certificate = read_pem("tls_cert", certificate, "CERTIFICATE", violations);
        access.key = read_pem("tls_key", key, "PRIVATE KEY", violations);
    }
    if (certificate.empty() != key.empty()) {
        violations.push_back(key.empty() ? Violation{"tls_key", "is missing; tls_cert needs it"}
                                         : Violation{"tls_cert", "is missing; tls_key needs it"});
    }
    if (access.tls && access.root_certificates.empty()) {
        for (const char* path : kSystemRoots) {
            if (std::optional<std::string> roots = read(path)) {
                access.root_certificates = std::move(*roots);
                break;
            }
        }
    }
    if (!access.token.empty() && !access.tls && !options.insecure && !is_loopback(access.target)) {
        violations.push_back({"token", "would travel to " + access.target +
                                           " without encryption; use TLS (tls, tls_ca), or insecure to accept that"});
    }
    if (!violations.empty()) {
        return Status::invalid(std::move(violations));
    }
    return access;
}

}  // namespace vinf::detail

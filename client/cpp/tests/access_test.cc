// Who calls, over what, and whom it trusts.
#include <cstdio>
#include <fstream>
#include <map>
#include <string>

#include "access.h"
#include "backoff.h"
#include "check.h"

namespace {

using namespace std::chrono_literals;
using vinf::ClientOptions;
using vinf::Code;
using vinf::Status;
using vinf::detail::Access;
using vinf::detail::Attempts;
using vinf::detail::is_loopback;

using Variables = std::map<std::string, std::string>;

vinf::Result<Access> resolve(const ClientOptions& options, const Variables& variables = {}) {
    return vinf::detail::resolve_access(options, [&](const char* name) {
        const auto found = variables.find(name);
        return found == variables.end() ? std::string() : found->second;
    });
}

/// The field of the only violation.
std::string refused(const ClientOptions& options, const Variables& variables = {}) {
    const vinf::Result<Access> access = resolve(options, variables);
    CHECK(!access.ok());
    CHECK(access.status().code == Code::kInvalidArgument);
    CHECK(access.status().violations.size() == 1);
    CHECK(options.token.empty() || access.status().message.find(options.token) == std::string::npos);
    return access.status().violations[0].field;
}

struct TemporaryFile {
    explicit TemporaryFile(const std::string& text) : path(std::tmpnam(nullptr)) { std::ofstream(path) << text; }
    ~TemporaryFile() { std::remove(path.c_str()); }
    std::string path;
};

void addresses_are_checked() {
    for (const char* address : {"nonsense", "host:", ":50051", "host:0", "host:65536", "host:5x", "http://host:80"}) {
        ClientOptions options;
        options.address = address;
        CHECK(refused(options) == "address");
    }
    ClientOptions options;
    CHECK(resolve(options)->target == "127.0.0.1:50051");
    CHECK(resolve(options, {{"VINF_SERVER", "other:1"}})->target == "other:1");
    options.use_environment = false;
    CHECK(resolve(options, {{"VINF_SERVER", "other:1"}})->target == "127.0.0.1:50051");
    options.address = "unix:/run/vinf.sock";
    CHECK(resolve(options).ok());
}

void loopback_is_known() {
    for (const char* target : {"127.0.0.1:1", "127.8.9.255:1", "localhost:1", "[::1]:1", "ipv6:[::1]:1", "dns:///localhost:1",
                               "unix:/run/x", "unix-abstract:x", "ipv4:127.0.0.1:1,127.0.0.2:2"}) {
        CHECK(is_loopback(target));
    }
    for (const char* target : {"10.0.0.1:1", "127.0.0.1.example.com:1", "127.0.0:1", "127.0.0.256:1", "128.0.0.1:1", "host:1",
                               "localhost.example.com:1", "[2001:db8::1]:1", "ipv4:127.0.0.1:1,10.0.0.1:2", ""}) {
        CHECK(!is_loopback(target));
    }
}

void a_token_stays_on_this_machine_without_tls() {
    ClientOptions options;
    options.token = "secret";
    CHECK(resolve(options).ok());
    options.address = "gpu.example.com:50051";
    CHECK(refused(options) == "token");
    options.insecure = true;
    CHECK(resolve(options)->token == "secret");
    options.insecure = false;
    options.tls = true;
    CHECK(resolve(options)->tls);
    options.token.clear();
    options.tls.reset();
    CHECK(refused(options, {{"VINF_TOKEN", "secret"}}) == "token");
    CHECK(resolve(options, {{"VINF_TOKEN", "secret"}, {"VINF_TLS", "yes"}})->tls);
}

void tokens_come_from_files_and_are_checked() {
    const TemporaryFile file("  secret\n");
    ClientOptions options;
    options.token_file = file.path;
    CHECK(resolve(options, {{"VINF_TOKEN", "other"}})->token == "secret");
    options.token_file = file.path + ".missing";
    CHECK(refused(options) == "token_file");
    const TemporaryFile empty("\n");
    options.token_file = empty.path;
    CHECK(refused(options) == "token_file");
    options.token_file.clear();
    for (const std::string& token : {std::string("two words"), std::string("t\xc3\xa4st"), std::string(5000, 'x')}) {
        options.token = token;
        CHECK(refused(options) == "token");
    }
}

void files_of_certificates_are_checked() {
    const TemporaryFile certificate("-----BEGIN CERTIFICATE-----\n");
    const TemporaryFile key("-----BEGIN PRIVATE KEY-----\n");
    const TemporaryFile locked("-----BEGIN ENCRYPTED PRIVATE KEY-----\n");
    ClientOptions options;
    options.tls_ca = certificate.path;
    CHECK(resolve(options)->tls);
    CHECK(resolve(options)->root_certificates == "-----BEGIN CERTIFICATE-----\n");
    options.tls_ca = certificate.path + ".missing";
    CHECK(refused(options) == "tls_ca");
    options.tls_ca = key.path;
    CHECK(refused(options) == "tls_ca");
    options.tls_ca.clear();
    options.tls_cert = certificate.path;
    CHECK(refused(options) == "tls_key");
    options.tls_key = locked.path;
    CHECK(refused(options) == "tls_key");
    options.tls_key = key.path;
    CHECK(resolve(options)->key == "-----BEGIN PRIVATE KEY-----\n");
    options.tls = false;
    CHECK(refused(options) == "tls");
    ClientOptions plain;
    plain.tls = false;
    CHECK(!resolve(plain, {{"VINF_TLS_CA", "/nowhere"}})->tls);
}

void pauses_grow_and_end() {
    Attempts attempts(3);
    std::chrono::milliseconds pause{};
    const Status away = Status::of(Code::kUnavailable, "", "");
    for (const int full : {100, 200, 400}) {
        CHECK(attempts.failed(away, pause));
        CHECK(pause.count() >= full / 2 && pause.count() <= full);
    }
    CHECK(!attempts.failed(away, pause));
    attempts.progressed();
    CHECK(attempts.failed(away, pause) && pause <= 100ms);
    Status busy = away;
    busy.retry_after = 7s;
    CHECK(attempts.failed(busy, pause) && pause == 7s);
    CHECK(!attempts.failed(Status::of(Code::kNotFound, "", ""), pause));
}

}  // namespace

void run_access_tests() {
    RUN(addresses_are_checked);
    RUN(loopback_is_known);
    RUN(a_token_stays_on_this_machine_without_tls);
    RUN(tokens_come_from_files_and_are_checked);
    RUN(files_of_certificates_are_checked);
    RUN(pauses_grow_and_end);
}

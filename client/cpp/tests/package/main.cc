#include <cstdio>
#include <vinf/vinf.h>

int main() {
    vinf::ClientOptions options;
    options.address = "nonsense";
    const vinf::Result<vinf::Client> client = vinf::Client::open(options);
    std::printf("%s\n", client.status().to_string().c_str());
    return client.ok() ? 1 : 0;
}

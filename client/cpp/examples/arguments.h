// The command line of the examples: "--name value" pairs, "--flag"s and --help.
#pragma once

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <string>
#include <vector>

class Arguments {
public:
    Arguments(int count, char** words, const char* help) : words_(words + 1, words + count), help_(help) {
        if (flag("--help") || flag("-h")) {
            std::fputs(help, stdout);
            std::exit(0);
        }
    }

    bool flag(const char* name) {
        for (std::size_t at = 0; at < words_.size(); ++at) {
            if (words_[at] == name) {
                used_.insert(at);
                return true;
            }
        }
        return false;
    }

    std::string text(const char* name, const std::string& otherwise = "") {
        for (std::size_t at = 0; at < words_.size(); ++at) {
            if (words_[at] == name) {
                if (at + 1 == words_.size()) {
                    fail(std::string(name) + " needs a value");
                }
                used_.insert({at, at + 1});
                return words_[at + 1];
            }
        }
        return otherwise;
    }

    std::int64_t number(const char* name, std::int64_t otherwise) {
        const std::string word = text(name);
        if (word.empty()) {
            return otherwise;
        }
        std::int64_t value = 0;
        const auto end = std::from_chars(word.data(), word.data() + word.size(), value);
        if (end.ec != std::errc() || end.ptr != word.data() + word.size()) {
            fail(std::string(name) + " must be a whole number, got '" + word + "'");
        }
        return value;
    }

    /// Ends the program where a word was not asked for.
    void check_all_used() const {
        for (std::size_t at = 0; at < words_.size(); ++at) {
            if (used_.count(at) == 0) {
                fail("'" + words_[at] + "' is not known");
            }
        }
    }

    [[noreturn]] void fail(const std::string& message) const {
        const std::string program(help_, std::strcspn(help_, " "));
        std::fprintf(stderr, "%s: %s; see --help\n", program.c_str(), message.c_str());
        std::exit(2);
    }

private:
    std::vector<std::string> words_;
    std::set<std::size_t> used_;
    const char* help_;
};

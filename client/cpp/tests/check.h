// A test is a function; a failed check says where and ends the program.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            std::fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                            \
        }                                                                            \
    } while (false)

#define RUN(test)                      \
    do {                               \
        test();                        \
        std::printf("ok %s\n", #test); \
    } while (false)

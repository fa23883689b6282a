#pragma once

#include <cstdint>

/// How often this thread has called operator new.
std::int64_t allocation_count();

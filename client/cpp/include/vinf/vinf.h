/// @file
/// Everything.
#pragma once

#include "vinf/client.h"
#include "vinf/frame.h"
#include "vinf/frame_puller.h"
#include "vinf/generation.h"
#include "vinf/puller_types.h"
#include "vinf/status.h"
#include "vinf/y4m.h"

// What windows.h makes of common words. The public headers must not use any of them as a name.
#define ERROR 0
#define NO_ERROR 0
#define OPAQUE 2
#define TRANSPARENT 1
#define ABSOLUTE 1
#define RELATIVE 2
#define DELETE (0x00010000L)
#define STRICT 1
#define IGNORE 0
#define INFINITE 0xFFFFFFFF
#define IN
#define OUT
#define OPTIONAL
#define NEAR
#define FAR
#define near
#define far
#define small char
#define interface struct
#define TRUE 1
#define FALSE 0
#define BOOL int
#define VOID void
#define CONST const
#define CALLBACK
#define PASCAL
#define DOMAIN 1
#define OVERFLOW 3
#define UNDERFLOW 4
#define DIFFERENCE 11
#define ALTERNATE 1
#define WINDING 2
#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define GetMessage GetMessageW
#define SendMessage SendMessageW
#define CreateEvent CreateEventW
#define OpenEvent OpenEventW
#define ReportEvent ReportEventW
#define GetObject GetObjectW
#define GetJob GetJobW
#define SetJob SetJobW
#define AddJob AddJobW
#define EnumJobs EnumJobsW
#define DeleteFile DeleteFileW
#define CreateFile CreateFileW
#define LoadImage LoadImageW
#define DrawText DrawTextW
#define Yield()
#define RGB(r, g, b) ((r) | ((g) << 8) | ((b) << 16))

#include "vinf/vinf.h"

// And they can be used there.
int shown(const vinf::Client& client);
int shown(const vinf::Client& client) {
    vinf::PullerOptions options;
    options.delivery = vinf::Delivery::kLatest;
    vinf::Result<vinf::FramePuller> puller = vinf::FramePuller::start(client, "id", options);
    return puller.ok() && puller->latest() ? static_cast<int>(puller->latest().index()) : ERROR;
}

#include "VinfVideoActor.h"

#include "Components/StaticMeshComponent.h"
#include "Engine/Texture2D.h"
#include "Materials/MaterialInstanceDynamic.h"
#include "RHI.h"

#include "vinf/vinf.h"

struct AVinfVideoActor::FPuller
{
    explicit FPuller(vinf::FramePuller&& In) : Frames(MoveTemp(In)) {}

    vinf::FramePuller Frames;
    vinf::Frame Shown;
};

AVinfVideoActor::AVinfVideoActor()
{
    PrimaryActorTick.bCanEverTick = true;
    Screen = CreateDefaultSubobject<UStaticMeshComponent>(TEXT("Screen"));
    SetRootComponent(Screen);
}

AVinfVideoActor::~AVinfVideoActor() = default;

void AVinfVideoActor::BeginPlay()
{
    Super::BeginPlay();
    vinf::ClientOptions Access;
    Access.address = TCHAR_TO_UTF8(*Address);
    const vinf::Result<vinf::Client> Client = vinf::Client::open(Access);
    if (!Client.ok())
    {
        UE_LOG(LogTemp, Error, TEXT("vinf: %s"), UTF8_TO_TCHAR(Client.status().message.c_str()));
        return;
    }
    vinf::PullerOptions Options;
    Options.delivery = bLive ? vinf::Delivery::kLatest : vinf::Delivery::kAll;
    Options.format.pixel_format = vinf::PixelFormat::kBgra8;  // as PF_B8G8R8A8
    Options.held_frames = 4;  // the render thread keeps some until they are uploaded
    vinf::Result<vinf::FramePuller> Started =
        vinf::FramePuller::start(*Client, TCHAR_TO_UTF8(*GenerationId), Options);
    if (Started.ok())
    {
        Puller = std::make_unique<FPuller>(MoveTemp(*Started));
    }
}

void AVinfVideoActor::EndPlay(const EEndPlayReason::Type Reason)
{
    Puller.reset();  // stops and joins its thread
    Super::EndPlay(Reason);
}

void AVinfVideoActor::Tick(float DeltaSeconds)
{
    Super::Tick(DeltaSeconds);
    if (!Puller)
    {
        return;
    }
    const auto MediaTime = std::chrono::microseconds(static_cast<int64>(GetWorld()->GetTimeSeconds() * 1e6));
    vinf::Frame Frame = bLive ? Puller->Frames.latest() : Puller->Frames.latest(MediaTime);
    if (Frame && (!Puller->Shown || Frame.index() != Puller->Shown.index()))
    {
        Puller->Shown = MoveTemp(Frame);
        Upload();
    }
    if (Puller->Frames.is_finished() && !Puller->Frames.status().ok())
    {
        UE_LOG(LogTemp, Error, TEXT("vinf: %s"), UTF8_TO_TCHAR(Puller->Frames.status().message.c_str()));
        Puller.reset();
    }
}

void AVinfVideoActor::Upload()
{
    const vinf::Frame& Frame = Puller->Shown;
    const int32 Width = Frame.format().width;
    const int32 Height = Frame.format().height;
    if (!Texture)
    {
        Texture = UTexture2D::CreateTransient(Width, Height, PF_B8G8R8A8);
        Texture->SRGB = true;
        Texture->UpdateResource();  // once: it stalls the render thread
        Instance = UMaterialInstanceDynamic::Create(Material, this);
        Instance->SetTextureParameterValue(TEXT("Video"), Texture);
        Screen->SetMaterial(0, Instance);
    }
    // The copy of the handle keeps the bytes alive until the render thread has uploaded them.
    struct FJob
    {
        FUpdateTextureRegion2D Region;
        vinf::Frame Frame;
    };
    auto* Job = new FJob{FUpdateTextureRegion2D(0, 0, 0, 0, Width, Height), Frame};
    const vinf::PlaneView Plane = Job->Frame.plane(0);
    Texture->UpdateTextureRegions(
        0, 1, &Job->Region, static_cast<uint32>(Plane.stride_bytes), 4, const_cast<uint8*>(Plane.data),
        [Job](uint8*, const FUpdateTextureRegion2D*) { delete Job; });
}

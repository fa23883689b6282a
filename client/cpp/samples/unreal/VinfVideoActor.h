// Shows a vinf generation on a material while it is made. See README.md.
#pragma once

#include <memory>

#include "CoreMinimal.h"
#include "GameFramework/Actor.h"
#include "VinfVideoActor.generated.h"

class UMaterialInterface;
class UMaterialInstanceDynamic;
class UStaticMeshComponent;
class UTexture2D;

UCLASS()
class AVinfVideoActor : public AActor
{
    GENERATED_BODY()

public:
    AVinfVideoActor();
    virtual ~AVinfVideoActor() override;

    UPROPERTY(EditAnywhere, Category = "Vinf")
    FString Address = TEXT("127.0.0.1:50051");

    UPROPERTY(EditAnywhere, Category = "Vinf")
    FString GenerationId;

    /** Always the newest frame, instead of every frame at the video's own speed. */
    UPROPERTY(EditAnywhere, Category = "Vinf")
    bool bLive = false;

    /** With a texture parameter named Video. */
    UPROPERTY(EditAnywhere, Category = "Vinf")
    TObjectPtr<UMaterialInterface> Material;

protected:
    virtual void BeginPlay() override;
    virtual void EndPlay(const EEndPlayReason::Type Reason) override;
    virtual void Tick(float DeltaSeconds) override;

private:
    struct FPuller;  // keeps the library's headers out of this one
    void Upload();

    UPROPERTY()
    TObjectPtr<UStaticMeshComponent> Screen;

    UPROPERTY()
    TObjectPtr<UTexture2D> Texture;

    UPROPERTY()
    TObjectPtr<UMaterialInstanceDynamic> Instance;

    std::unique_ptr<FPuller> Puller;
};

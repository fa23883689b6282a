// Shows a vinf generation on a material while it is made. See README.md.
using System;
using System.Collections.Concurrent;
using System.Net.Http;
using System.Threading;
using System.Threading.Tasks;
using Cysharp.Net.Http;
using Google.Protobuf.WellKnownTypes;
using Grpc.Core;
using Grpc.Net.Client;
using UnityEngine;
using Vinf.V1;

public sealed class VinfVideo : MonoBehaviour
{
    [SerializeField] string address = "http://127.0.0.1:50051";
    [SerializeField] string token = "";
    [SerializeField] string generationId = "";
    [SerializeField] Renderer target;

    const int RingFrames = 4;

    sealed class Picture
    {
        public byte[] Pixels;
        public int Width, Height;
        public double Seconds; // when it is due
    }

    readonly ConcurrentQueue<Picture> ring = new();
    readonly CancellationTokenSource leaving = new();
    GrpcChannel channel;
    Texture2D texture;
    double offset = double.NaN; // of the game's clock to the video's

    void OnEnable()
    {
        var handler = new YetAnotherHttpHandler { Http2Only = true };
        channel = GrpcChannel.ForAddress(address, new GrpcChannelOptions
        {
            HttpHandler = handler,
            DisposeHttpClient = true,
            MaxReceiveMessageSize = 64 << 20,
        });
        _ = Task.Run(() => Pull(leaving.Token));
    }

    // A channel that outlives play mode hangs the editor at its next domain reload.
    void OnDestroy()
    {
        leaving.Cancel();
        channel?.Dispose();
        if (texture != null) Destroy(texture);
    }

    async Task Pull(CancellationToken leave)
    {
        var client = new VideoGenerationService.VideoGenerationServiceClient(channel);
        var headers = new Metadata();
        if (token.Length > 0) headers.Add("authorization", "Bearer " + token);
        VideoFormat format = null;
        Picture picture = null;
        long frame = 0;
        var pause = 100;
        while (!leave.IsCancellationRequested)
        {
            while (ring.Count >= RingFrames && !leave.IsCancellationRequested) await Task.Delay(2);
            var request = new PullFramesRequest
            {
                GenerationId = generationId,
                StartFrameIndex = frame,
                StartByteOffset = picture == null ? 0 : filled,
                MaxDataBytes = 16 << 20,
                Wait = Duration.FromTimeSpan(TimeSpan.FromSeconds(10)),
                KnownFormatRevision = format?.FormatRevision ?? 0,
                // As Unity's textures are: RGBA, the bottom row first, no padding.
                OutputFormat = new OutputFormat { PixelFormat = PixelFormat.Rgba8, RowOrder = RowOrder.BottomUp },
            };
            PullFramesResponse reply;
            try
            {
                reply = await client.PullFramesAsync(request, headers, DateTime.UtcNow.AddSeconds(40), leave);
                pause = 100;
            }
            catch (RpcException error) when (error.StatusCode is StatusCode.Unavailable or StatusCode.DeadlineExceeded)
            {
                await Task.Delay(pause);
                pause = Math.Min(2 * pause, 5000);
                continue;
            }
            catch (RpcException error)
            {
                if (!leave.IsCancellationRequested) Debug.LogError($"vinf: {error.Status.Detail}");
                return;
            }
            if (reply.Format != null) format = reply.Format;
            foreach (var slice in reply.Frames)
            {
                picture ??= new Picture
                {
                    Pixels = new byte[slice.DataSizeBytes],
                    Width = format.Width,
                    Height = format.Height,
                    Seconds = slice.PresentationTimeUs / 1e6,
                };
                slice.Data.Span.CopyTo(picture.Pixels.AsSpan((int)slice.DataOffsetBytes));
                filled = slice.DataOffsetBytes + slice.Data.Length;
                if (filled < slice.DataSizeBytes) continue;
                ring.Enqueue(picture);
                picture = null;
                filled = 0;
            }
            frame = reply.NextFrameIndex;
            if (reply.EndOfStream) return;
        }
    }

    long filled; // bytes of `picture`; used by Pull alone

    void Update()
    {
        Picture due = null;
        while (ring.TryPeek(out var next))
        {
            var late = Time.timeAsDouble - offset - next.Seconds;
            if (double.IsNaN(offset) || Math.Abs(late) > 0.25) offset = Time.timeAsDouble - next.Seconds; // a gap: go on from here
            else if (late < 0) break;
            ring.TryDequeue(out due);
        }
        if (due == null) return; // the frame before stays
        if (texture == null)
        {
            texture = new Texture2D(due.Width, due.Height, TextureFormat.RGBA32, false);
            target.material.mainTexture = texture;
        }
        texture.LoadRawTextureData(due.Pixels);
        texture.Apply(false);
    }
}

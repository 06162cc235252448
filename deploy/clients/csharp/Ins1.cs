// INS1 for programs in C#: messages, every result once, and the fail-safe rule. Needs NetMQ and .NET 8.
// This file has not been compiled or run; see README.md. The normative text is docs/protocol.md.

using System;
using System.Buffers.Binary;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Text;
using System.Text.Json;
using NetMQ;
using NetMQ.Sockets;

namespace Inspectd.Ins1;

/// <summary>Something came that does not follow INS1. Treat the part as not inspected.</summary>
public sealed class ProtocolException : Exception
{
    public ProtocolException(string message) : base(message) { }
}

public enum MessageType : byte
{
    Verdict = 1,
    Mask = 2,
    Heartbeat = 3,
    Stats = 4,
    State = 5,
    Alarm = 6,
    Preview = 7,
}

public enum Verdict : byte
{
    Undefined = 0,
    Ok = 1,
    Ng = 2,
    Review = 3,
    NotInspected = 4,
}

[Flags]
public enum HeaderFlags : byte
{
    Simulated = 1,
    Partial = 2,
    Replayed = 4,
    Truncated = 8,
    TimeSynced = 16,
    NotDurable = 32,
}

/// <summary>The fixed part of a message, little-endian.</summary>
public sealed record Header
{
    public const int Bytes = 64;
    public const int OffsetVerMajor = 4;
    public const int OffsetVerMinor = 5;
    public const int OffsetMsgType = 6;
    public const int OffsetFlags = 7;
    public const int OffsetEpoch = 8;
    public const int OffsetHeaderBytes = 12;
    public const int OffsetStream = 14;
    public const int OffsetSeq = 16;
    public const int OffsetFrameId = 24;
    public const int OffsetTAcqNs = 32;
    public const int OffsetLatencyUs = 40;
    public const int OffsetCrc32 = 44;
    public const int OffsetVerdict = 48;
    public const int OffsetState = 49;
    public const int OffsetDefectCount = 50;
    public const int OffsetWorstClass = 52;
    public const int OffsetWorstScoreE4 = 54;
    public const int OffsetRecipeNo = 56;
    public const int OffsetTriggerId = 60;

    public byte VerMinor { get; init; }
    public byte MsgType { get; init; }
    public HeaderFlags Flags { get; init; }
    public uint Epoch { get; init; }
    public ushort Stream { get; init; }
    public ulong Seq { get; init; }
    public ulong FrameId { get; init; }
    public long TAcqNs { get; init; }
    public uint LatencyUs { get; init; }
    public uint Crc32 { get; init; }
    public Verdict Verdict { get; init; }
    public byte State { get; init; }
    public ushort DefectCount { get; init; }
    public ushort WorstClass { get; init; }
    public ushort WorstScoreE4 { get; init; }
    public uint RecipeNo { get; init; }
    public uint TriggerId { get; init; }

    public bool Is(MessageType type) => MsgType == (byte)type;

    /// <summary>Check and read a header; also one that a later minor version made longer.</summary>
    public static Header Read(ReadOnlySpan<byte> data)
    {
        if (data.Length < Bytes || !data[..4].SequenceEqual("INS1"u8))
            throw new ProtocolException($"header: expected INS1 and at least {Bytes} bytes, got {data.Length}");
        if (data[OffsetVerMajor] != 1)
            throw new ProtocolException($"header: expected major version 1, got {data[OffsetVerMajor]}");
        ushort bytes = BinaryPrimitives.ReadUInt16LittleEndian(data[OffsetHeaderBytes..]);
        if (bytes != data.Length)
            throw new ProtocolException($"header: expected header_bytes as long as it is, {data.Length}, got {bytes}");
        var header = new Header
        {
            VerMinor = data[OffsetVerMinor],
            MsgType = data[OffsetMsgType],
            Flags = (HeaderFlags)data[OffsetFlags],
            Epoch = BinaryPrimitives.ReadUInt32LittleEndian(data[OffsetEpoch..]),
            Stream = BinaryPrimitives.ReadUInt16LittleEndian(data[OffsetStream..]),
            Seq = BinaryPrimitives.ReadUInt64LittleEndian(data[OffsetSeq..]),
            FrameId = BinaryPrimitives.ReadUInt64LittleEndian(data[OffsetFrameId..]),
            TAcqNs = BinaryPrimitives.ReadInt64LittleEndian(data[OffsetTAcqNs..]),
            LatencyUs = BinaryPrimitives.ReadUInt32LittleEndian(data[OffsetLatencyUs..]),
            Crc32 = BinaryPrimitives.ReadUInt32LittleEndian(data[OffsetCrc32..]),
            Verdict = (Verdict)data[OffsetVerdict],
            State = data[OffsetState],
            DefectCount = BinaryPrimitives.ReadUInt16LittleEndian(data[OffsetDefectCount..]),
            WorstClass = BinaryPrimitives.ReadUInt16LittleEndian(data[OffsetWorstClass..]),
            WorstScoreE4 = BinaryPrimitives.ReadUInt16LittleEndian(data[OffsetWorstScoreE4..]),
            RecipeNo = BinaryPrimitives.ReadUInt32LittleEndian(data[OffsetRecipeNo..]),
            TriggerId = BinaryPrimitives.ReadUInt32LittleEndian(data[OffsetTriggerId..]),
        };
        if (header.Verdict > Verdict.NotInspected || header.State is < 1 or > 7 || header.WorstScoreE4 > 10000)
            throw new ProtocolException("header: verdict, state or score is out of range");
        if (header.MsgType == 0 || (header.MsgType > (byte)MessageType.Preview && header.VerMinor == 0))
            throw new ProtocolException($"header: expected msg_type 1..7, got {header.MsgType}");
        return header;
    }
}

/// <summary>One message, checked. Camera is "" where it is of the station.</summary>
public sealed record Message(string Topic, string Camera, Header Header, JsonElement Body, byte[] Payload)
{
    public const int MaxBodyBytes = 1 << 20;
    public const int MaxPayloadBytes = 1 << 28;
    public const int MaxPixels = 1 << 28;
    public const int MaxTopicBytes = 255;
    public const ushort StationStream = 65535;

    public static readonly IReadOnlyDictionary<MessageType, string> Topics = new Dictionary<MessageType, string>
    {
        [MessageType.Verdict] = "ins1/verdict/",
        [MessageType.Mask] = "ins1/mask/",
        [MessageType.Heartbeat] = "ins1/hb/",
        [MessageType.Stats] = "ins1/stats/",
        [MessageType.State] = "ins1/state/",
        [MessageType.Alarm] = "ins1/alarm/",
        [MessageType.Preview] = "ins1/preview/",
    };

    public static Message Read(IReadOnlyList<byte[]> parts)
    {
        if (parts.Count is < 3 or > 4)
            throw new ProtocolException($"message: expected 3 or 4 parts, got {parts.Count}");
        byte[] payload = parts.Count == 4 ? parts[3] : Array.Empty<byte>();
        if (parts[0].Length > MaxTopicBytes || parts[2].Length > MaxBodyBytes || payload.Length > MaxPayloadBytes)
            throw new ProtocolException("message: a part is too long");
        Header header = Header.Read(parts[1]);
        string topic = Encoding.ASCII.GetString(parts[0]);
        string camera = CameraOf(topic, header);
        if (Checksum.Of(parts[2], payload) != header.Crc32)
            throw new ProtocolException($"{topic} {header.Seq}: expected crc32 as the header says, got another");
        return new Message(topic, camera, header, Json.Object(parts[2]), payload);
    }

    private static string CameraOf(string topic, Header header)
    {
        if (!topic.StartsWith("ins1/", StringComparison.Ordinal) || !topic.EndsWith('/'))
            throw new ProtocolException("topic: expected ins1/ at the start and / at the end");
        if (!Topics.TryGetValue((MessageType)header.MsgType, out string? start))
            return ""; // of a later minor version; to be passed over
        if (!topic.StartsWith(start, StringComparison.Ordinal))
            throw new ProtocolException($"topic: expected {start} for type {header.MsgType}, got {topic}");
        string rest = topic[start.Length..];
        bool ofCamera = header.Is(MessageType.Verdict) || header.Is(MessageType.Mask) || header.Is(MessageType.Preview);
        if (!ofCamera)
            return rest == "" ? "" : throw new ProtocolException($"topic: expected {start}, got {topic}");
        string camera = rest.Length > 0 ? rest[..^1] : "";
        if (camera.Length is 0 or > 64 || camera[0] == '.' || !camera.All(IsCameraSign))
            throw new ProtocolException($"topic: {topic} names no camera");
        return camera;
    }

    private static bool IsCameraSign(char sign) => char.IsAsciiLetterOrDigit(sign) || sign is '_' or '-' or '.';

    /// <summary>The labels of a mask, row by row; of the encoding rle8 alone. Checked before they are allocated.</summary>
    public byte[] ReadLabels(out int width, out int height)
    {
        if (!Header.Is(MessageType.Mask))
            throw new ProtocolException($"{Topic}: expected a mask");
        width = Json.Int(Body, "width", MaxPixels);
        height = Json.Int(Body, "height", MaxPixels);
        long pixels = (long)width * height;
        if (pixels is < 1 or > MaxPixels)
            throw new ProtocolException($"mask: expected at most {MaxPixels} pixels, got {width} x {height}");
        if (Json.Text(Body, "encoding") != "rle8")
            throw new ProtocolException("mask: this client reads the encoding rle8 alone");
        int classes = Json.Array(Body, "classes").Count;
        int runs = Payload.Length / 5;
        if (runs == 0 || Payload.Length % 5 != 0)
            throw new ProtocolException("rle8: expected a multiple of 5 bytes and at least one run");
        long sum = 0;
        for (int run = 0; run < runs; run++)
        {
            uint length = BinaryPrimitives.ReadUInt32LittleEndian(Payload.AsSpan(4 * run));
            if (length == 0 || Payload[4 * runs + run] > classes)
                throw new ProtocolException("rle8: a run of no pixel, or a label without a class");
            sum += length;
        }
        if (sum != pixels)
            throw new ProtocolException($"rle8: the runs sum to {sum}, expected {pixels}");
        byte[] labels = new byte[pixels];
        int at = 0;
        for (int run = 0; run < runs; run++)
        {
            int length = (int)BinaryPrimitives.ReadUInt32LittleEndian(Payload.AsSpan(4 * run));
            labels.AsSpan(at, length).Fill(Payload[4 * runs + run]);
            at += length;
        }
        return labels;
    }
}

/// <summary>CRC-32 of zlib and PNG.</summary>
public static class Checksum
{
    private const uint Polynomial = 0xEDB88320;
    private static readonly uint[] Table = Enumerable.Range(0, 256).Select(value => Entry((uint)value)).ToArray();

    public static uint Of(params byte[][] pieces)
    {
        uint crc = 0xFFFFFFFF;
        foreach (byte[] piece in pieces)
            foreach (byte value in piece)
                crc = Table[(crc ^ value) & 0xFF] ^ (crc >> 8);
        return ~crc;
    }

    private static uint Entry(uint value)
    {
        for (int bit = 0; bit < 8; bit++)
            value = (value & 1) != 0 ? (value >> 1) ^ Polynomial : value >> 1;
        return value;
    }
}

/// <summary>JSON that raises ProtocolException and nothing else.</summary>
internal static class Json
{
    public static JsonElement Object(byte[] text)
    {
        try
        {
            using JsonDocument document = JsonDocument.Parse(text, new JsonDocumentOptions { MaxDepth = 32 });
            if (document.RootElement.ValueKind != JsonValueKind.Object)
                throw new ProtocolException("JSON: expected an object");
            return document.RootElement.Clone();
        }
        catch (JsonException error)
        {
            throw new ProtocolException($"JSON: {error.Message}");
        }
    }

    public static JsonElement Field(JsonElement value, string name)
    {
        if (value.ValueKind != JsonValueKind.Object || !value.TryGetProperty(name, out JsonElement found))
            throw new ProtocolException($"JSON: the field {name} is missing");
        return found;
    }

    public static ulong Number(JsonElement value, string name)
    {
        JsonElement field = Field(value, name);
        if (field.ValueKind != JsonValueKind.Number || !field.TryGetUInt64(out ulong number))
            throw new ProtocolException($"JSON: expected a whole number in {name}");
        return number;
    }

    public static int Int(JsonElement value, string name, int highest)
    {
        ulong number = Number(value, name);
        return number <= (ulong)highest
            ? (int)number
            : throw new ProtocolException($"JSON: expected at most {highest} in {name}, got {number}");
    }

    public static string Text(JsonElement value, string name)
    {
        JsonElement field = Field(value, name);
        if (field.ValueKind != JsonValueKind.String)
            throw new ProtocolException($"JSON: expected a text in {name}");
        return field.GetString() ?? "";
    }

    public static List<JsonElement> Array(JsonElement value, string name)
    {
        JsonElement field = Field(value, name);
        if (field.ValueKind != JsonValueKind.Array)
            throw new ProtocolException($"JSON: expected a list in {name}");
        return field.EnumerateArray().ToList();
    }
}

/// <summary>The station does not do what it was asked for.</summary>
public sealed class RefusedException : Exception
{
    public RefusedException(string code, string message) : base($"{code}: {message}") => Code = code;

    public string Code { get; }
}

/// <summary>Questions and commands to a station; for one thread.</summary>
public sealed class Control : IDisposable
{
    public static readonly TimeSpan Resend = TimeSpan.FromSeconds(1);

    private readonly DealerSocket socket = new();
    private ulong nextId = (ulong)DateTimeOffset.UtcNow.ToUnixTimeMilliseconds();

    public Control(string endpoint, string name = "")
    {
        socket.Options.Linger = TimeSpan.Zero;
        socket.Options.ReceiveHighWatermark = 0;
        if (name != "")
            socket.Options.Identity = Encoding.UTF8.GetBytes(name);
        socket.Connect(endpoint);
    }

    /// <summary>Ask, and wait; the same number is sent again while no answer comes, so that nothing is done twice.</summary>
    public (JsonElement Result, List<byte[]> Blobs) Ask(string op, object arguments, TimeSpan patience)
    {
        ulong number = nextId++;
        byte[] id = new byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(id, number);
        byte[] request = JsonSerializer.SerializeToUtf8Bytes(new { op, args = arguments });
        var waited = Stopwatch.StartNew();
        int sent = 0;
        while (waited.Elapsed < patience)
        {
            var message = new NetMQMessage();
            message.Append(id);
            message.Append(request);
            if (socket.TrySendMultipartMessage(TimeSpan.Zero, message))
                sent++;
            var resend = Stopwatch.StartNew();
            while (resend.Elapsed < Resend && waited.Elapsed < patience)
            {
                var answer = new NetMQMessage();
                if (!socket.TryReceiveMultipartMessage(TimeSpan.FromMilliseconds(100), ref answer))
                    continue;
                List<byte[]> parts = answer.Select(frame => frame.ToByteArray()).ToList();
                if (parts.Count < 2 || !parts[0].AsSpan().SequenceEqual(id))
                    continue; // of a request that was given up
                JsonElement whole = Json.Object(parts[1]);
                if (Json.Field(whole, "ok").ValueKind == JsonValueKind.True)
                    return (Json.Field(whole, "result"), parts.Skip(2).ToList());
                JsonElement fault = Json.Field(whole, "error");
                string code = Json.Text(fault, "code");
                // Sent again, it may be answered that it is still being done: the real answer follows.
                if (code != "busy" || sent < 2)
                    throw new RefusedException(code, Json.Text(fault, "message"));
            }
        }
        throw new TimeoutException($"no answer to {op} within {patience}; check that the station runs, and the keys");
    }

    public void Dispose() => socket.Dispose();
}

/// <summary>Results that cannot be had any more: First to Last, or to an end that is not known (null).</summary>
public sealed record Lost(uint Epoch, ushort Stream, ulong First, ulong? Last, string Reason);

/// <summary>Every result once, by the six rules for clients of docs/protocol.md; for one thread.</summary>
public sealed class Subscriber : IDisposable
{
    public const int MaxReplay = 500;

    private readonly SubscriberSocket socket = new();
    private readonly Control control;
    private readonly Dictionary<(uint Epoch, ushort Stream), ulong> done = new();
    private readonly TimeSpan patience;
    private uint? epoch;

    public event Action<Message>? Heard;
    public event Action<Message>? Result;
    public event Action<Message>? Changed;
    public event Action<Lost>? Missed;
    public event Action<string>? Spoiled;

    public Subscriber(string publish, string controlEndpoint, TimeSpan? patience = null)
    {
        this.patience = patience ?? TimeSpan.FromSeconds(60);
        socket.Options.Linger = TimeSpan.Zero;
        socket.Options.ReceiveHighWatermark = 0;
        foreach (MessageType type in new[] { MessageType.Verdict, MessageType.Heartbeat, MessageType.State, MessageType.Alarm })
            socket.Subscribe(Message.Topics[type]);
        socket.Connect(publish);
        control = new Control(controlEndpoint);
    }

    /// <summary>Handle what comes within the time; call it again and again.</summary>
    public void Poll(TimeSpan timeout)
    {
        if (epoch is null)
            CatchUp(0);
        var parts = new NetMQMessage();
        while (socket.TryReceiveMultipartMessage(timeout, ref parts))
        {
            timeout = TimeSpan.Zero;
            try
            {
                Take(Message.Read(parts.Select(frame => frame.ToByteArray()).ToList()));
            }
            catch (ProtocolException error)
            {
                Spoiled?.Invoke(error.Message);
            }
            parts = new NetMQMessage();
        }
    }

    private void Take(Message message)
    {
        Header header = message.Header;
        Heard?.Invoke(message);
        if (header.Flags.HasFlag(HeaderFlags.Replayed))
            return;
        if (epoch is null || header.Epoch > epoch)
            CatchUp(header.Epoch);
        if (header.Is(MessageType.Heartbeat))
        {
            if (header.Epoch == epoch)
                RecoverStreams(header.Epoch, message.Body);
            return;
        }
        bool counts = header.Is(MessageType.Verdict) || header.Is(MessageType.State) || header.Is(MessageType.Alarm);
        if (!counts || header.Seq <= Done(header.Epoch, header.Stream))
            return;
        if (header.Seq > 1)
            Recover(header.Epoch, header.Stream, header.Seq - 1);
        Give(message);
    }

    private ulong Done(uint ofEpoch, ushort stream) => done.GetValueOrDefault((ofEpoch, stream));

    private void Give(Message message)
    {
        done[(message.Header.Epoch, message.Header.Stream)] = message.Header.Seq;
        if (message.Header.Is(MessageType.Verdict))
            Result?.Invoke(message);
        else
            Changed?.Invoke(message);
    }

    private void Lose(uint ofEpoch, ushort stream, ulong first, ulong? last, string reason)
    {
        if (last is ulong end)
            done[(ofEpoch, stream)] = end;
        Missed?.Invoke(new Lost(ofEpoch, stream, first, last, reason));
    }

    // Rules 2 and 6: a snapshot, what is left of the epochs before, and then the present one.
    private void CatchUp(uint heard)
    {
        JsonElement snapshot = Snapshot(heard);
        uint now = (uint)Json.Number(snapshot, "epoch");
        if (epoch is not uint mine)
        {
            epoch = now;
            foreach (JsonElement position in Json.Array(snapshot, "streams"))
                done[(now, (ushort)Json.Int(position, "stream", ushort.MaxValue))] = Json.Number(position, "last");
            return;
        }
        Dictionary<uint, JsonElement> held = Json.Array(snapshot, "epochs")
            .ToDictionary(entry => (uint)Json.Number(entry, "epoch"), entry => entry);
        foreach (uint old in held.Keys.Append(mine).Distinct().Where(each => each >= mine && each < now).Order())
        {
            if (held.TryGetValue(old, out JsonElement entry))
                RecoverStreams(old, entry);
            else
                foreach (var (key, seq) in done.Where(pair => pair.Key.Epoch == old).ToList())
                    Lose(old, key.Stream, seq + 1, null, "no longer held");
        }
        epoch = now;
        RecoverStreams(now, snapshot);
    }

    private JsonElement Snapshot(uint heard)
    {
        var waited = Stopwatch.StartNew();
        while (true)
        {
            TimeSpan left = patience - waited.Elapsed;
            JsonElement snapshot = control.Ask("snapshot", new { }, left).Result;
            // One that the station of before had answered would say nothing of the new one.
            if (Json.Number(snapshot, "epoch") >= heard)
                return snapshot;
            System.Threading.Thread.Sleep(200);
        }
    }

    private void RecoverStreams(uint ofEpoch, JsonElement entry)
    {
        foreach (JsonElement position in Json.Array(entry, "streams"))
        {
            ushort stream = (ushort)Json.Int(position, "stream", ushort.MaxValue);
            Recover(ofEpoch, stream, Json.Number(position, "last"));
        }
    }

    // Rules 4 and 5: fetch what comes after what is there, up to `last`; what cannot be had is lost.
    private void Recover(uint ofEpoch, ushort stream, ulong last)
    {
        int tries = 0;
        while (Done(ofEpoch, stream) < last)
        {
            ulong first = Done(ofEpoch, stream) + 1;
            ulong to = Math.Min(first + MaxReplay - 1, last);
            var arguments = new Dictionary<string, object>
            {
                ["stream"] = stream,
                ["from"] = first,
                ["to"] = to,
                ["epoch"] = ofEpoch,
                ["masks"] = false,
            };
            JsonElement result;
            List<byte[]> blobs;
            try
            {
                (result, blobs) = control.Ask("replay", arguments, patience);
            }
            catch (Exception error) when (error is RefusedException or TimeoutException)
            {
                Lose(ofEpoch, stream, first, last, error.Message);
                return;
            }
            for (int at = 0; at + 4 <= blobs.Count; at += 4)
            {
                Message message = Message.Read(blobs.GetRange(at, 4));
                Header header = message.Header;
                ulong next = Done(ofEpoch, stream) + 1;
                if (header.Epoch != ofEpoch || header.Stream != stream || header.Seq < next || header.Seq > to)
                    continue;
                if (header.Seq > next)
                    Lose(ofEpoch, stream, next, header.Seq - 1, "not in the journal");
                Give(message);
            }
            ulong given = Math.Min(to, Json.Number(result, "to"));
            ulong newest = Json.Number(result, "newest");
            if (Done(ofEpoch, stream) < given)
                Lose(ofEpoch, stream, Done(ofEpoch, stream) + 1, given, "not in the journal");
            if (Done(ofEpoch, stream) >= first)
                tries = 0;
            else if (newest < first && tries++ < 5)
                System.Threading.Thread.Sleep(200); // it was sent before it got to the disk
            else
                Lose(ofEpoch, stream, first, newest >= first ? to : last, "not in the journal");
        }
    }

    public void Dispose()
    {
        socket.Dispose();
        control.Dispose();
    }
}

/// <summary>The fail-safe rule: a part is good only if everything holds, all else is a reject.</summary>
public sealed class Gate
{
    public const int HeartbeatMs = 250;
    public const int OldestPeriods = 3;

    private readonly string camera;
    private readonly TimeSpan oldest;
    private readonly Stopwatch clock = Stopwatch.StartNew();
    private TimeSpan? heartbeat;
    private TimeSpan deadline;
    private uint triggerId;
    private bool pending;
    private bool good;

    public Gate(string camera, int periodMs = HeartbeatMs)
    {
        this.camera = camera;
        oldest = TimeSpan.FromMilliseconds(OldestPeriods * periodMs);
    }

    /// <summary>A part was triggered; its verdict has to come in time.</summary>
    public void Begin(uint id, TimeSpan within)
    {
        triggerId = id;
        deadline = clock.Elapsed + within;
        pending = true;
        good = false;
    }

    public void Feed(Message message)
    {
        Header header = message.Header;
        TimeSpan now = clock.Elapsed;
        if (header.Is(MessageType.Heartbeat))
        {
            heartbeat = now;
            return;
        }
        if (!pending || !header.Is(MessageType.Verdict) || message.Camera != camera || header.TriggerId != triggerId)
            return;
        if (header.Flags.HasFlag(HeaderFlags.Replayed) || now >= deadline)
            return;
        pending = false;
        good = header.Verdict == Verdict.Ok && heartbeat is TimeSpan came && now - came < oldest;
    }

    /// <summary>True: good. False: reject. Null: wait, and ask again; never after the deadline.</summary>
    public bool? Decide()
    {
        if (pending && clock.Elapsed >= deadline)
            pending = false;
        return pending ? null : good;
    }
}

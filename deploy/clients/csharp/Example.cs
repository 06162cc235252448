// A line for each result of a station: ins1-example tcp://10.0.0.5:5560 tcp://10.0.0.5:5561
// This file has not been compiled or run; see README.md.

using System;
using Inspectd.Ins1;

if (args.Length != 2)
{
    Console.Error.WriteLine("expected: ins1-example PUBLISH CONTROL");
    return 2;
}

bool over = false;
Console.CancelKeyPress += (_, interrupt) =>
{
    interrupt.Cancel = true;
    over = true;
};

using var subscriber = new Subscriber(args[0], args[1]);
subscriber.Result += message =>
{
    Header header = message.Header;
    Console.WriteLine(
        $"result {header.Epoch} {header.Stream} {header.Seq} {message.Camera} {header.Verdict} "
        + $"part={header.TriggerId} defects={header.DefectCount}");
};
subscriber.Changed += message =>
    Console.WriteLine($"changed {message.Header.Epoch} {message.Header.Stream} {message.Header.Seq}");
subscriber.Missed += lost =>
    Console.WriteLine($"lost {lost.Epoch} {lost.Stream} {lost.First} {lost.Last?.ToString() ?? "?"} {lost.Reason}");
subscriber.Spoiled += reason => Console.WriteLine($"spoiled {reason}");

while (!over)
    subscriber.Poll(TimeSpan.FromMilliseconds(200));
return 0;
